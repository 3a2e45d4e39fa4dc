{{- define "mirror.check" -}}
{{- if not (has .Values.form (list "deployment" "daemonset")) }}
{{- fail (printf "form %q is not one of deployment, daemonset" .Values.form) }}
{{- end }}
{{- if not (has .Values.upstream (list "connected" "never")) }}
{{- fail (printf "upstream %q is not one of connected, never" .Values.upstream) }}
{{- end }}
{{- if eq (.Values.storage.className | lower | replace "-" "") "emptydir" }}
{{- fail "the cache cannot be kept in an emptyDir: it is emptied when the pod goes" }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.existingSecret) }}
{{- fail "tls.enabled needs existingSecret with tls.crt and tls.key" }}
{{- end }}
{{- end }}

{{- define "mirror.files" -}}
{{- if or .Values.config .Values.existingSecret }}yes{{ end }}
{{- end }}

{{- define "mirror.port" -}}
{{- if and (eq .Values.form "daemonset") .Values.listen }}{{ regexReplaceAll "^.*:" .Values.listen "" }}{{ else }}5000{{ end }}
{{- end }}

{{- define "mirror.probe" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .Values.listen "" }}
httpGet:
  path: /v2/
  port: {{ include "mirror.port" . }}
  scheme: {{ .Values.tls.enabled | ternary "HTTPS" "HTTP" }}
{{- if and (eq .Values.form "daemonset") .Values.listen }}
  host: {{ $host | trimAll "[]" | quote }}
{{- end }}
{{- end }}

{{- define "mirror.pod" -}}
{{- $daemon := eq .Values.form "daemonset" -}}
{{- $files := include "mirror.files" . -}}
{{- if $daemon }}
hostNetwork: true
{{- end }}
dnsPolicy: Default
priorityClassName: system-node-critical
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 30
tolerations:
{{- if $daemon }}
  - operator: Exists
{{- else }}
  - key: node-role.kubernetes.io/control-plane
    operator: Exists
  - key: CriticalAddonsOnly
    operator: Exists
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- if $daemon }}
  seLinuxOptions:
    type: spc_t
{{- end }}
containers:
  - name: mirror
    image: {{ required "image.reference is missing" .Values.image.reference | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: ["/usr/local/bin/edgeprep"]
    args:
      - mirror
      - serve
      - --cache
      - {{ $daemon | ternary .Values.storage.hostPath "/var/lib/edgeprep/mirror" | quote }}
      - --listen
      - {{ $daemon | ternary (.Values.listen | default "$(NODE_IP):5000") "0.0.0.0:5000" | quote }}
      - --upstream
      - {{ .Values.upstream }}
{{- if $daemon }}
      - --admin
      - /var/lib/edgeprep/mirror-admin/admin.sock
{{- end }}
{{- if $files }}
      - --config
      - /etc/edgeprep/mirror/edgeprep.toml
{{- end }}
{{- if ne .Values.defaultRegistry "docker.io" }}
      - --default-registry
      - {{ .Values.defaultRegistry | quote }}
{{- end }}
{{- if .Values.accessLog }}
      - --access-log
{{- end }}
{{- if .Values.metrics }}
      - --metrics
      - {{ .Values.metrics | quote }}
{{- end }}
{{- if .Values.tls.enabled }}
      - --tls-cert
      - /etc/edgeprep/mirror/tls.crt
      - --tls-key
      - /etc/edgeprep/mirror/tls.key
{{- end }}
{{- if not $daemon }}
      - --create
{{- end }}
    env:
      - name: GOMEMLIMIT
        value: "400MiB"
{{- if and $daemon (not .Values.listen) }}
      - name: NODE_IP
        valueFrom:
          fieldRef:
            fieldPath: status.hostIP
{{- end }}
{{- if $files }}
      - name: CREDENTIALS_DIRECTORY
        value: "/etc/edgeprep/mirror"
{{- end }}
    ports:
      - name: registry
        containerPort: {{ include "mirror.port" . }}
{{- if $daemon }}
        hostPort: {{ include "mirror.port" . }}
{{- end }}
        protocol: TCP
    readinessProbe:
      {{- include "mirror.probe" . | nindent 6 }}
      periodSeconds: 5
      timeoutSeconds: 5
    livenessProbe:
      {{- include "mirror.probe" . | nindent 6 }}
      initialDelaySeconds: 10
      periodSeconds: 20
      timeoutSeconds: 10
      failureThreshold: 6
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: ["ALL"]
    volumeMounts:
      - name: cache
        mountPath: {{ $daemon | ternary .Values.storage.hostPath "/var/lib/edgeprep" | quote }}
{{- if $daemon }}
      - name: admin
        mountPath: "/var/lib/edgeprep/mirror-admin"
{{- end }}
{{- if $files }}
      - name: files
        mountPath: "/etc/edgeprep/mirror"
        readOnly: true
{{- end }}
volumes:
  - name: cache
{{- if $daemon }}
    hostPath:
      path: {{ .Values.storage.hostPath | quote }}
      type: Directory
  - name: admin
    hostPath:
      path: "/var/lib/edgeprep/mirror-admin"
      type: Directory
{{- else }}
    persistentVolumeClaim:
      claimName: {{ .Values.storage.existingClaim | default "edgeprep-mirror" | quote }}
{{- end }}
{{- if $files }}
  - name: files
    secret:
      secretName: {{ .Values.existingSecret | default "edgeprep-mirror" | quote }}
      defaultMode: 0440
{{- end }}
{{- end }}

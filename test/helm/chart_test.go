package helm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

const image = "edgeprep.local/mirror:0123456789ab"

// chartDir is the chart as `edgeprep mirror chart` writes it.
func chartDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "edgeprep-mirror")
	if err := os.CopyFS(dir, os.DirFS(deploy+"/chart")); err != nil {
		t.Fatal(err)
	}
	values := filepath.Join(dir, "values.yaml")
	text, err := os.ReadFile(values)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(values, []byte(strings.ReplaceAll(string(text), "@IMAGE@", image)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func render(t *testing.T, dir string, values map[string]any) (string, error) {
	t.Helper()
	c, err := loader.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	v, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "edgeprep-mirror", Namespace: "edgeprep", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	out, err := engine.Render(c, v)
	return out["edgeprep-mirror/templates/mirror.yaml"], err
}

func TestChartLints(t *testing.T) {
	t.Parallel()
	dir := chartDir(t)
	for _, values := range []map[string]any{nil, {"form": "daemonset"}, {"config": "version = 1\n", "upstream": "connected"}} {
		for _, m := range lint.All(dir, values, "edgeprep", true).Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%v: %v", values, m)
			}
		}
	}
}

// The chart and apply must give the same mirror.
func TestChartIsWhatApplyWrites(t *testing.T) {
	t.Parallel()
	dir := chartDir(t)
	for golden, values := range map[string]map[string]any{
		"deployment": {},
		"daemonset":  {"form": "daemonset"},
	} {
		text, err := render(t, dir, values)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(deploy, "testdata", golden+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		got, ours := objects(t, text), objects(t, string(want))
		delete(ours, "Namespace") // helm install --create-namespace
		if c, ok := got["PersistentVolumeClaim"].(*corev1.PersistentVolumeClaim); ok {
			c.Annotations = nil
		}
		for _, m := range []map[string]any{got, ours} {
			if d, ok := m["Deployment"].(*appsv1.Deployment); ok {
				delete(d.Labels, "app.kubernetes.io/managed-by")
			}
			if d, ok := m["DaemonSet"].(*appsv1.DaemonSet); ok {
				delete(d.Labels, "app.kubernetes.io/managed-by")
			}
		}
		if d := cmp.Diff(ours, got); d != "" {
			t.Errorf("%s (-apply +chart):\n%s", golden, d)
		}
	}
}

func TestChartRefuses(t *testing.T) {
	t.Parallel()
	dir := chartDir(t)
	for want, values := range map[string]map[string]any{
		"emptyDir":       {"storage": map[string]any{"className": "emptyDir"}},
		"form":           {"form": "static-pod"},
		"upstream":       {"upstream": "sometimes"},
		"existingSecret": {"tls": map[string]any{"enabled": true}},
	} {
		if _, err := render(t, dir, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", values, err)
		}
	}
}

func TestChartValues(t *testing.T) {
	t.Parallel()
	text, err := render(t, chartDir(t), map[string]any{"config": "version = 1\n", "upstream": "connected", "metrics": "0.0.0.0:9464", "nodePort": 31999,
		"storage": map[string]any{"className": "local-path", "size": "9Gi"}, "accessLog": true})
	if err != nil {
		t.Fatal(err)
	}
	objs := objects(t, text)
	if s := objs["Secret"].(*corev1.Secret); string(s.Data["edgeprep.toml"]) != "version = 1\n" {
		t.Errorf("%+v", s)
	}
	if s := objs["Service"].(*corev1.Service); s.Spec.Ports[0].NodePort != 31999 {
		t.Errorf("%+v", s)
	}
	if c := objs["PersistentVolumeClaim"].(*corev1.PersistentVolumeClaim); *c.Spec.StorageClassName != "local-path" || c.Spec.Resources.Requests.Storage().String() != "9Gi" {
		t.Errorf("%+v", c)
	}
	args := strings.Join(spec(t, objs).Containers[0].Args, " ")
	for _, want := range []string{"--upstream connected", "--metrics 0.0.0.0:9464", "--access-log", "--config /etc/edgeprep/mirror/edgeprep.toml"} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in %s", want, args)
		}
	}
}

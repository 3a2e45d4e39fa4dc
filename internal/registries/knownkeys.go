package registries

import "strings"

// criRuntime is the other half of the CRI plugin from config version 3 on.
const criRuntime = "io.containerd.cri.v1.runtime"

// knownKeys are those of the table of a plugin. Newer 1.x and 2.x releases know all that older ones did, but for
// what gone names; the lists are those of the newest.
func (r release) knownKeys(id string) keySet {
	list := func(texts ...string) []string { return strings.Fields(strings.Join(texts, "")) }
	switch {
	case r.major == 1:
		return keySet{known: list(keys1)}
	case id == cri3:
		return keySet{known: list(keysImages), gone: []string{"registry.configs.*.tls.**"}}
	case id == criRuntime:
		return keySet{known: list(keysRuntime)}
	}
	return keySet{known: list(keys1, keysMerged), gone: list(keysGone)}
}

// keysGone are read by 1.x only. containerd: internal/cri/config of v2.4.2 against pkg/cri/config of v1.7.35, and
// what plugins/cri/*/plugin.go migrates.
const keysGone = `
containerd.default_runtime.**
containerd.no_pivot
containerd.runtimes.*.runtime_engine
containerd.runtimes.*.runtime_root
containerd.untrusted_workload_runtime.**
disable_cgroup
registry.configs.*.tls.**
systemd_cgroup
`

// keysMerged are keys of 2.x that its older form takes too, because tables are handed on as they are.
const keysMerged = `
cni.bin_dirs
cni.use_internal_loopback
containerd.runtimes.*.cgroup_writable
containerd.runtimes.*.io_type
containerd.runtimes.*.sandboxer
disable_pause_image_pull
enable_criu
ignore_rdt_not_enabled_errors
stats_retention_period
`

// keys1 are those of the one plugin of containerd 1.x: pkg/cri/config, v1.7.35.
const keys1 = `
cdi_spec_dirs
cni.bin_dir
cni.conf_dir
cni.conf_template
cni.ip_pref
cni.max_conf_num
cni.setup_serially
containerd.default_runtime.base_runtime_spec
containerd.default_runtime.cni_conf_dir
containerd.default_runtime.cni_max_conf_num
containerd.default_runtime.container_annotations
containerd.default_runtime.options.**
containerd.default_runtime.pod_annotations
containerd.default_runtime.privileged_without_host_devices
containerd.default_runtime.privileged_without_host_devices_all_devices_allowed
containerd.default_runtime.runtime_engine
containerd.default_runtime.runtime_path
containerd.default_runtime.runtime_root
containerd.default_runtime.runtime_type
containerd.default_runtime.sandbox_mode
containerd.default_runtime.snapshotter
containerd.default_runtime_name
containerd.disable_snapshot_annotations
containerd.discard_unpacked_layers
containerd.ignore_blockio_not_enabled_errors
containerd.ignore_rdt_not_enabled_errors
containerd.no_pivot
containerd.runtimes.*.base_runtime_spec
containerd.runtimes.*.cni_conf_dir
containerd.runtimes.*.cni_max_conf_num
containerd.runtimes.*.container_annotations
containerd.runtimes.*.options.**
containerd.runtimes.*.pod_annotations
containerd.runtimes.*.privileged_without_host_devices
containerd.runtimes.*.privileged_without_host_devices_all_devices_allowed
containerd.runtimes.*.runtime_engine
containerd.runtimes.*.runtime_path
containerd.runtimes.*.runtime_root
containerd.runtimes.*.runtime_type
containerd.runtimes.*.sandbox_mode
containerd.runtimes.*.snapshotter
containerd.snapshotter
containerd.untrusted_workload_runtime.base_runtime_spec
containerd.untrusted_workload_runtime.cni_conf_dir
containerd.untrusted_workload_runtime.cni_max_conf_num
containerd.untrusted_workload_runtime.container_annotations
containerd.untrusted_workload_runtime.options.**
containerd.untrusted_workload_runtime.pod_annotations
containerd.untrusted_workload_runtime.privileged_without_host_devices
containerd.untrusted_workload_runtime.privileged_without_host_devices_all_devices_allowed
containerd.untrusted_workload_runtime.runtime_engine
containerd.untrusted_workload_runtime.runtime_path
containerd.untrusted_workload_runtime.runtime_root
containerd.untrusted_workload_runtime.runtime_type
containerd.untrusted_workload_runtime.sandbox_mode
containerd.untrusted_workload_runtime.snapshotter
device_ownership_from_security_context
disable_apparmor
disable_cgroup
disable_hugetlb_controller
disable_proc_mount
disable_tcp_service
drain_exec_sync_io_timeout
enable_cdi
enable_selinux
enable_tls_streaming
enable_unprivileged_icmp
enable_unprivileged_ports
ignore_deprecation_warnings
ignore_image_defined_volumes
image_decryption.key_model
image_pull_progress_timeout
image_pull_with_sync_fs
max_concurrent_downloads
max_container_log_line_size
netns_mounts_under_state_dir
registry.auths.*.auth
registry.auths.*.identitytoken
registry.auths.*.password
registry.auths.*.username
registry.config_path
registry.configs.*.auth.auth
registry.configs.*.auth.identitytoken
registry.configs.*.auth.password
registry.configs.*.auth.username
registry.configs.*.tls.ca_file
registry.configs.*.tls.cert_file
registry.configs.*.tls.insecure_skip_verify
registry.configs.*.tls.key_file
registry.headers.*
registry.mirrors.*.endpoint
restrict_oom_score_adj
sandbox_image
selinux_category_range
stats_collect_period
stream_idle_timeout
stream_server_address
stream_server_port
systemd_cgroup
tolerate_missing_hugetlb_controller
unset_seccomp_profile
x509_key_pair_streaming.tls_cert_file
x509_key_pair_streaming.tls_key_file
`

// keysImages: internal/cri/config ImageConfig, v2.4.2.
const keysImages = `
concurrent_layer_fetch_buffer
disable_snapshot_annotations
discard_unpacked_layers
image_decryption.key_model
image_pull_progress_timeout
image_pull_with_sync_fs
max_concurrent_downloads
pinned_images.*
registry.auths.*.auth
registry.auths.*.identitytoken
registry.auths.*.password
registry.auths.*.username
registry.config_path
registry.configs.*.auth.auth
registry.configs.*.auth.identitytoken
registry.configs.*.auth.password
registry.configs.*.auth.username
registry.headers.*
registry.mirrors.*.endpoint
runtime_platforms.*.platform
runtime_platforms.*.snapshotter
snapshotter
stats_collect_period
use_local_image_pull
`

// keysRuntime: internal/cri/config RuntimeConfig, v2.4.2, and keys that 2.0 and 2.1 had.
const keysRuntime = `
cdi_spec_dirs
cni.bin_dirs
cni.conf_dir
cni.conf_template
cni.ip_pref
cni.max_conf_num
cni.setup_serially
cni.use_internal_loopback
containerd.default_runtime_name
containerd.ignore_blockio_not_enabled_errors
containerd.ignore_rdt_not_enabled_errors
containerd.runtimes.*.base_runtime_spec
containerd.runtimes.*.cgroup_writable
containerd.runtimes.*.cni_conf_dir
containerd.runtimes.*.cni_max_conf_num
containerd.runtimes.*.container_annotations
containerd.runtimes.*.disable_pause_image_pull
containerd.runtimes.*.io_type
containerd.runtimes.*.options.**
containerd.runtimes.*.pod_annotations
containerd.runtimes.*.privileged_without_host_devices
containerd.runtimes.*.privileged_without_host_devices_all_devices_allowed
containerd.runtimes.*.runtime_path
containerd.runtimes.*.runtime_type
containerd.runtimes.*.sandboxer
containerd.runtimes.*.snapshotter
device_ownership_from_security_context
disable_apparmor
disable_hugetlb_controller
disable_proc_mount
drain_exec_sync_io_timeout
enable_criu
enable_selinux
enable_unprivileged_icmp
enable_unprivileged_ports
ignore_deprecation_warnings
ignore_image_defined_volumes
max_container_log_line_size
netns_mounts_under_state_dir
restrict_oom_score_adj
selinux_category_range
stats_collect_period
stats_retention_period
tolerate_missing_hugetlb_controller
unset_seccomp_profile
cni.bin_dir
enable_cdi
containerd.runtimes.*.sandbox_mode
`

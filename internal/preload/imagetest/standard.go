package imagetest

// Options change the standard set.
type Options struct {
	LayerSize   int64       // bytes of each image's own layer; 0: 64 KiB
	Random      int         // percent of it that does not compress; 0: 50
	Compression Compression // of layers; the zero value is Plain
	Platforms   []string    // nil: linux/amd64 and linux/arm64
	Pause       string      // name of the pause image; empty: PauseName
	// Binary is a static program, say busybox, for the first platform. With it the set has ShellName too,
	// an image that a container can be started from.
	Binary []byte
}

// The names in the standard set.
const (
	PauseName  = "registry.k8s.io/pause:3.10"
	WebName    = "docker.io/library/edge-web:1.0"
	WebAlias   = "docker.io/library/edge-web:stable" // the same digest as WebName
	APIName    = "quay.io/edgeprep/edge-api:2.3"     // shares a layer with WebName
	SensorName = "ghcr.io/edgeprep/edge-sensor:0.9"  // has a name by digest too
	ShellName  = "docker.io/library/edge-shell:1.36" // only with Options.Binary
)

// Standard makes the set that most tests and the demo use: a pause image, two images that share a layer (one
// with two tags), one that is also named by digest, and with a binary one that runs. All but the runnable
// one hold every platform.
func Standard(o Options) (*Set, error) {
	o = o.withDefaults()
	base := o.layer("base")
	base.Files = []File{{Path: "etc/os-release", Mode: 0o644, Content: []byte("ID=edge\n")}}
	specs := []ImageSpec{
		{Names: []string{o.Pause}, Layers: []LayerSpec{{
			Seed: "pause", Size: 1024, Random: o.Random, Compression: o.Compression,
		}}},
		{Names: []string{WebName, WebAlias}, Layers: []LayerSpec{base, o.layer("web")}},
		{Names: []string{APIName}, Layers: []LayerSpec{base, o.layer("api")}},
		{Names: []string{SensorName}, ByDigest: true, Layers: []LayerSpec{o.layer("sensor")}},
	}
	for i := range specs {
		specs[i].Platforms, specs[i].Cmd = o.Platforms, []string{"/bin/none"}
	}
	if len(o.Binary) > 0 {
		specs = append(specs, o.shell())
	}
	return Build(specs...)
}

func (o Options) withDefaults() Options {
	if o.LayerSize == 0 {
		o.LayerSize = 64 << 10
	}
	if o.Pause == "" {
		o.Pause = PauseName
	}
	if o.Random == 0 {
		o.Random = 50
	}
	if len(o.Platforms) == 0 {
		o.Platforms = []string{"linux/amd64", "linux/arm64"}
	}
	return o
}

func (o Options) layer(seed string) LayerSpec {
	return LayerSpec{Seed: seed, Size: o.LayerSize, Random: o.Random, Compression: o.Compression}
}

// shell is busybox style: the program finds its applet by the name it is called by.
func (o Options) shell() ImageSpec {
	return ImageSpec{
		Names: []string{ShellName}, Platforms: o.Platforms[:1], Cmd: []string{"/bin/sh"},
		Layers: []LayerSpec{{Compression: o.Compression, Files: []File{
			{Path: "bin/busybox", Mode: 0o755, Content: o.Binary},
			{Path: "bin/sh", Link: "busybox"},
			{Path: "bin/sleep", Link: "busybox"},
		}}},
	}
}

package coldstart

import "slices"

// noProvisioner is the class of volumes that an administrator makes beforehand.
// kubernetes: pkg/apis/storage, NoProvisioner
const noProvisioner = "kubernetes.io/no-provisioner"

// claim is a volume that a pod waits for.
func (b *builder) claim(namespace, name string) string {
	id := "claim:" + namespace + "/" + name
	if b.g.byID[id] != nil {
		return id
	}
	s := b.g.add(Step{ID: id, Kind: KindVolume, Label: "volume claim " + namespace + "/" + name})
	c := b.find("PersistentVolumeClaim", func(o Object) bool { return o.Namespace == namespace && o.Name == name })
	if c == nil {
		s.State, s.Detail = Unknown, "the claim is not in a manifest on this disk"
		return id
	}
	s.Source = c.Source
	if v := b.boundTo(c); v != nil {
		b.mounted(s, v)
		return id
	}
	b.provisioned(s, c)
	return id
}

func (b *builder) find(kind string, is func(Object) bool) *Object {
	i := slices.IndexFunc(b.in.Objects, func(o Object) bool { return o.Kind == kind && is(o) })
	if i < 0 {
		return nil
	}
	return &b.in.Objects[i]
}

// boundTo is the volume on this disk that a claim gets for certain.
func (b *builder) boundTo(c *Object) *Object {
	return b.find("PersistentVolume", func(v Object) bool {
		return v.Name == c.Claim.Volume || v.Volume.Claim == c.Namespace+"/"+c.Name
	})
}

// mounted: kubelet mounts local volumes by itself, others with the help of their driver's pods.
func (b *builder) mounted(s *Step, v *Object) {
	if v.Volume.Driver == "" {
		s.State, s.Detail = Served, "volume "+v.Name+", which kubelet mounts by itself"
		return
	}
	b.storagePods(s, v.Volume.Driver, "")
}

// provisioned: the class names who makes the volume. A volume that was made before still waits for the
// driver's pods when it is mounted, so they are asked for in either case.
func (b *builder) provisioned(s *Step, c *Object) {
	class := b.find("StorageClass", func(o Object) bool {
		return c.Claim.Class == nil && o.Default || c.Claim.Class != nil && *c.Claim.Class == o.Name
	})
	switch {
	case class == nil:
		s.State, s.Detail = Unknown, "its storage class is not in a manifest on this disk"
	case class.Provisioner == noProvisioner:
		b.prepared(s, class.Name)
	default:
		b.storagePods(s, class.Provisioner, class.Source)
	}
}

// prepared looks for a volume of a class without provisioner.
func (b *builder) prepared(s *Step, class string) {
	if v := b.find("PersistentVolume", func(v Object) bool { return v.Volume.Class == class && v.Volume.Claim == "" }); v != nil {
		b.mounted(s, v)
		return
	}
	s.State, s.Detail = Unknown, "no volume of class "+class+" is in a manifest on this disk"
}

// storagePods are those that are told of a driver, else those that come in the file of its class.
func (b *builder) storagePods(s *Step, driver, file string) {
	for _, is := range []func(Object) bool{
		func(o Object) bool { return o.Pod.mentions(driver) },
		func(o Object) bool { return file != "" && o.Source == file },
	} {
		for _, o := range b.in.Objects {
			if o.Pod != nil && is(o) {
				s.needs(b.object(o))
			}
		}
		if len(s.Needs) > 0 {
			return
		}
	}
	for _, r := range b.in.Bootstrap {
		s.needs(b.image(r, false))
	}
	if len(s.Needs) == 0 {
		s.State, s.Detail = Unknown, "no manifest on this disk starts its driver "+driver+"; name its images in [mirror.workload] bootstrap"
	}
}

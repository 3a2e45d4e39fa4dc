package kubelet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Where kubelet keeps its records, and how it names them.
// kubernetes: pkg/kubelet/images/pullmanager/fs_pullrecords.go
const (
	pullingDir   = "image_manager/pulling"
	pulledDir    = "image_manager/pulled"
	recordPrefix = "sha256-"
	recordTemp   = ".tmp"
	maxRecord    = 1 << 20
	// maxRecords bounds how many files of a directory are read.
	maxRecords = 10000
)

// Intent is a pull that kubelet began: its end was not recorded.
type Intent struct {
	File  string
	Image string // as the pod wrote it; empty: the file cannot be understood
	Err   error
}

// Intents lists pulls without an end. Images pulled while the kubelet runs are among them.
func Intents(f host.FS, root string) ([]Intent, error) {
	var out []Intent
	err := records(f, path.Join(root, pullingDir), func(file string) {
		var r struct {
			Kind  string `json:"kind"`
			Image string `json:"image"`
		}
		err := decode(f, file, &r)
		if err == nil && (r.Kind != "ImagePullIntent" || r.Image == "") {
			err = errors.New("it is not an ImagePullIntent")
		}
		out = append(out, Intent{File: file, Image: r.Image, Err: err})
	})
	return out, err
}

// Pulled is the record of an image that kubelet pulled.
type Pulled struct {
	ImageRef string // the image's id in CRI
	// Credentials by the image's name as pods write it, without tag and digest.
	Credentials map[string]Credentials
}

// Credentials are those that an image was pulled with.
type Credentials struct {
	Secrets         []Named `json:"kubernetesSecrets"`
	ServiceAccounts []Named `json:"kubernetesServiceAccounts"`
	// AllPods: every pod of the node may use the image.
	AllPods bool `json:"nodePodsAccessible"`
}

// Named is a secret or service account. Hashes of credentials are not read.
type Named struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// PulledRecord is the record of an image by its id in CRI; ok is false when there is none. A record that cannot be
// understood is an error: kubelet then asks for the image anew.
func PulledRecord(f host.FS, root, imageRef string) (p Pulled, file string, ok bool, err error) {
	sum := sha256.Sum256([]byte(imageRef))
	file = path.Join(root, pulledDir, recordPrefix+hex.EncodeToString(sum[:]))
	var r struct {
		Kind        string                 `json:"kind"`
		ImageRef    string                 `json:"imageRef"`
		Credentials map[string]Credentials `json:"credentialMapping"`
	}
	err = decode(f, file, &r)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Pulled{}, file, false, nil
	case err == nil && r.Kind != "ImagePulledRecord":
		err = errors.New("it is not an ImagePulledRecord")
	}
	if err != nil {
		return Pulled{}, file, true, err
	}
	return Pulled{ImageRef: r.ImageRef, Credentials: r.Credentials}, file, r.ImageRef == imageRef, nil
}

// CountPulled is the number of records of pulled images.
func CountPulled(f host.FS, root string) (n int, err error) {
	err = records(f, path.Join(root, pulledDir), func(string) { n++ })
	return n, err
}

// records calls fn for each file that kubelet takes for a record. A directory that is not there has none.
func records(f host.FS, dir string, fn func(file string)) error {
	entries, err := f.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kubelet's records of pulls: %w", err)
	}
	if len(entries) > maxRecords {
		return fmt.Errorf("kubelet's records of pulls: %s holds %d files, of which no more than %d are read", dir, len(entries), maxRecords)
	}
	for _, e := range entries {
		name := path.Base(e.Path)
		if e.Type != host.TypeDir && strings.HasPrefix(name, recordPrefix) && !strings.HasSuffix(name, recordTemp) {
			fn(path.Join(dir, name))
		}
	}
	return nil
}

func decode(f host.FS, file string, into any) error {
	data, err := f.ReadFile(file, maxRecord)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	return nil
}

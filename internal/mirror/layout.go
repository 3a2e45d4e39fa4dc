package mirror

import (
	"path"
	"strings"

	// Registered for digests; sha512 covers sha384 too.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
)

// The top-level entries of a cache. Everything else there is foreign.
const (
	dirBlobs      = "blobs"
	dirRefs       = "refs"
	dirTmp        = "tmp"
	dirQuarantine = "quarantine"
	dirUsage      = "usage"
	fileMisses    = "misses.jsonl"
	fileUses      = dirUsage + "/last.jsonl"
	fileScrub     = dirUsage + "/scrub.json"
)

// The directories of a repository. No repository component begins with "_", so they cannot collide with one.
const (
	dirTags    = "_tags"
	dirDigests = "_digests"
)

// blobPath is where a blob is, relative to the cache.
func blobPath(d digest.Digest) string {
	hex := d.Encoded()
	return path.Join(dirBlobs, d.Algorithm().String(), hex[:2], hex)
}

// badPath is where a blob goes that failed its digest.
func badPath(d digest.Digest) string {
	return path.Join(dirQuarantine, d.Algorithm().String(), d.Encoded()+".bad")
}

func repositoryPath(n Name) string { return dirRefs + "/" + n.Registry + "/" + n.Repository }

func tagPath(n Name, tag string) string { return repositoryPath(n) + "/" + dirTags + "/" + tag }

func digestPath(n Name, d digest.Digest) string {
	return repositoryPath(n) + "/" + dirDigests + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// recordPath is the file that answers a reference: its digest's when it has one, as a digest beats a tag.
func recordPath(r Reference) string {
	if r.Digest != "" {
		return digestPath(r.Name, r.Digest)
	}
	return tagPath(r.Name, r.Tag)
}

// parseBlobPath is the inverse of blobPath.
func parseBlobPath(rel string) (digest.Digest, bool) {
	parts := strings.Split(rel, "/")
	if len(parts) != 4 || parts[0] != dirBlobs {
		return "", false
	}
	d := digest.Digest(parts[1] + ":" + parts[3])
	if d.Validate() != nil || !strings.HasPrefix(parts[3], parts[2]) || len(parts[2]) != 2 {
		return "", false
	}
	return d, true
}

// parseRecordPath is the inverse of tagPath and digestPath.
func parseRecordPath(rel string) (Reference, bool) {
	rest, ok := strings.CutPrefix(rel, dirRefs+"/")
	if !ok {
		return Reference{}, false
	}
	registry, rest, _ := strings.Cut(rest, "/")
	if repo, tag, ok := strings.Cut(rest, "/"+dirTags+"/"); ok {
		r := Reference{Name: Name{registry, repo}, Tag: tag}
		return r, r.valid() && validTag(tag)
	}
	repo, d, ok := strings.Cut(rest, "/"+dirDigests+"/")
	if !ok {
		return Reference{}, false
	}
	r := Reference{Name: Name{registry, repo}, Digest: digest.Digest(strings.Replace(d, "/", ":", 1))}
	return r, r.valid() && r.Digest.Validate() == nil
}

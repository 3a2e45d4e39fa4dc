// Package mirror is the pull-only OCI registry that a site's nodes pull from, and its cache on disk.
//
// It knows nothing of nodes. The cache is plain files, so that cp, rsync and Syncthing can copy and merge it:
//
//	blobs/<algorithm>/<2>/<hex>                              manifests and layers alike, never changed
//	refs/<registry>/<repository…>/_tags/<tag>                one small JSON file per tag
//	refs/<registry>/<repository…>/_digests/<algorithm>/<hex> manifests that a repository serves
//	quarantine/<algorithm>/<hex>.bad                         blobs that failed their digest
//	tmp/                                                     files being written
//	usage/, misses.jsonl                                     last use, scrub position, misses: in batches, loss harmless
//
// There is no index. A read writes nothing, with one exception: a blob that fails its digest is moved to
// quarantine. Nothing is believed because of its name: a blob is served only after its digest was verified
// on this disk, and a reference file only counts when the reference written in it is the one its path says.
package mirror

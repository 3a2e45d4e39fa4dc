package selfimage

import (
	"crypto/x509"
	"os"
)

// HostRoots are the certification authorities of this machine as its distribution bundles them, and the file
// that they were read from. Empty: it has none.
func HostRoots() (pem []byte, file string) {
	// go: src/crypto/x509/root_linux.go
	for _, f := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"} {
		data, err := os.ReadFile(f)
		if err == nil && HasCertificates(data) {
			return data, f
		}
	}
	return nil, ""
}

// HasCertificates says whether a PEM file holds a certificate at all.
func HasCertificates(pem []byte) bool { return x509.NewCertPool().AppendCertsFromPEM(pem) }

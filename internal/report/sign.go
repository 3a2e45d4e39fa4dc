package report

import (
	"crypto/rand"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Namespace is what signatures of records are made for, so that one cannot be taken for another's.
const Namespace = "edgeprep-report"

// sshsig of OpenSSH: PROTOCOL.sshsig
const (
	sshsigMagic   = "SSHSIG"
	sshsigVersion = 1
	sshsigHash    = "sha512"
)

// Signer signs records with an ssh key.
type Signer struct {
	key   ssh.Signer
	close func() error
}

// NewSigner reads a private key without a passphrase, or with a .pub file asks the ssh agent, which is also
// the way for keys with a passphrase and on tokens.
func NewSigner(file string) (*Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", err)
	}
	if strings.HasSuffix(file, ".pub") {
		return agentSigner(file, data)
	}
	key, err := ssh.ParsePrivateKey(data)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("%s has a passphrase: ssh-add %s, then --sign %s.pub", file, file, file)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not an ssh private key: %w", file, err)
	}
	return &Signer{key: key, close: func() error { return nil }}, nil
}

func agentSigner(file string, data []byte) (*Signer, error) {
	want, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s is not an ssh public key: %w", file, err)
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, fmt.Errorf("no ssh agent to sign with %s: eval $(ssh-agent), then ssh-add", file)
	}
	conn, err := net.Dial("unix", socket) //nolint:noctx // a local socket
	if err != nil {
		return nil, fmt.Errorf("ssh agent: %w", err)
	}
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ssh agent: %w", err), conn.Close())
	}
	for _, k := range keys {
		if string(k.PublicKey().Marshal()) == string(want.Marshal()) {
			return &Signer{key: k, close: conn.Close}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("the ssh agent does not have the key of %s: ssh-add %s", file, strings.TrimSuffix(file, ".pub")), conn.Close())
}

// Close ends the connection to the agent.
func (s *Signer) Close() error { return s.close() }

// Public is the key in the form of authorized_keys and, after a name, of allowed_signers.
func (s *Signer) Public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))
}

// Sign makes what `ssh-keygen -Y sign -n edgeprep-report` makes.
func (s *Signer) Sign(message []byte) ([]byte, error) {
	sum := sha512.Sum512(message)
	signed := ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Sum                       []byte
	}{Namespace, "", sshsigHash, sum[:]})
	sig, err := s.sign(append([]byte(sshsigMagic), signed...))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	blob := ssh.Marshal(struct {
		Version                   uint32
		Key                       []byte
		Namespace, Reserved, Hash string
		Signature                 []byte
	}{sshsigVersion, s.key.PublicKey().Marshal(), Namespace, "", sshsigHash, ssh.Marshal(sig)})
	return pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: append([]byte(sshsigMagic), blob...)}), nil
}

// sign: RSA with SHA-1, its default, is not accepted by ssh-keygen.
func (s *Signer) sign(data []byte) (*ssh.Signature, error) {
	if a, ok := s.key.(ssh.AlgorithmSigner); ok && s.key.PublicKey().Type() == ssh.KeyAlgoRSA {
		return a.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSASHA512)
	}
	return s.key.Sign(rand.Reader, data)
}

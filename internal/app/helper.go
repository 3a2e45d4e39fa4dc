package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

const (
	helperTimeout = 15 * time.Second
	maxHelper     = 64 << 10
)

// credentialHelper asks docker-credential-HELPER as docker does: "get", the server on its standard input, JSON on
// its standard output. What it writes is in no error: it may be a secret.
// docker-credential-helpers: client/client.go
func credentialHelper(ctx context.Context, helper, server string) (user, secret string, err error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get") //nolint:gosec // the site file names it
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = time.Second // for what it started and left
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", "", fmt.Errorf("run docker-credential-%s: %w", helper, err)
	}
	var answer struct{ Username, Secret string }
	bad := json.NewDecoder(io.LimitReader(out, maxHelper)).Decode(&answer)
	out.Close() // one that goes on writing ends
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", helperTimeout)
		}
		return "", "", fmt.Errorf("%w; try: echo %s | docker-credential-%s get", err, server, helper)
	}
	if bad != nil {
		return "", "", errors.New("its answer is not the JSON of a credential helper")
	}
	return answer.Username, answer.Secret, nil
}

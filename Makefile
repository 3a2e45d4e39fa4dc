# Everything a developer needs. `make test` is what CI runs.
GO      ?= go
BIN     ?= bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
LINT     = $(BIN)/golangci-lint

.PHONY: build test e2e e2e-cluster unit race lint docs pictures bench bench-check bench-mirror soak fuzz real-servers screenshots clean

build: ## one static binary: bin/edgeprep
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/edgeprep ./cmd/edgeprep

test: real-servers unit race ## everything this machine can run

e2e: real-servers ## whole nodes: real systemd, containerd, cloud-init, kubelet; root on Debian
	@if [ "$$(id -u)" = 0 ]; then $(GO) run ./test/build -what kubelet; fi
	EDGEPREP_E2E=1 $(GO) test -timeout 30m -count=1 -v ./test/e2e/...

e2e-cluster: real-servers ## a node with a whole Kubernetes and the mirror in it; root on Debian, not in CI: builds for 15 minutes
	$(GO) run ./test/build -what kubelet,kubernetes,cluster
	EDGEPREP_E2E=1 EDGEPREP_E2E_CLUSTER=1 $(GO) test -timeout 60m -count=1 -v -run InItsOwnCluster ./test/e2e

unit:
	$(GO) test -timeout 20m ./...
	cd test/helm && $(GO) test -timeout 10m ./... # a module of its own: Helm and the API types of Kubernetes

race: ## the concurrent packages under the race detector
	$(GO) test -race -short -timeout 10m ./internal/mirror/... ./internal/progress/... ./internal/check/... ./internal/apply/...

real-servers: ## a registry, conformance suites, containerd 1.7 and 2.4 for the tests, cached by version in the user's cache folder
	@$(GO) run ./test/build -what distribution,conformance-suite,conformance-ginkgo
	@if [ "$$(id -u)" = 0 ]; then $(GO) run ./test/build -what containerd-1.7,containerd-2.4; \
	else echo "skip: tests with a real containerd need root"; fi

lint: $(LINT) ## golangci-lint, pinned in tools/go.mod
	$(LINT) run ./...

$(LINT): tools/go.mod tools/go.sum
	mkdir -p $(BIN) && cd tools && CGO_ENABLED=0 $(GO) build -o ../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

docs: ## write what is generated from the code, and update goldens of docs
	EDGEPREP_UPDATE=1 $(GO) test ./internal/config ./internal/mirror ./internal/check ./internal/distro ./internal/repotest -run 'Current|Generated' -count=1

bench: ## ratios against cp, sha256sum, openssl and ctr, in one run; see docs/benchmarks.md
	./test/bench.sh

pictures: ## docs/tui/*.png, of the golden frames of the TUI; needs chromium
	$(GO) run ./test/frames

bench-mirror: build ## the mirror against nginx and distribution, about 15 minutes; SHORT=1: about 4, and nothing is written
	$(GO) run ./test/build -what distribution,conformance-suite,conformance-ginkgo
	$(GO) run ./test/mirrorbench $(if $(SHORT),-short,-write docs/benchmarks.md) $(if $(PARTS),-parts $(PARTS))

screenshots: ## the HTML report on A4 and on a phone, into docs/images; see test/screenshots.sh for what it needs
	./test/screenshots.sh

bench-check: ## the profile ship on a real containerd with 100 images; root
	EDGEPREP_MEASURE=1 $(GO) test ./internal/check -run TestChecksDoNotChangeARealNode -count=1 -v

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	./test/fuzz.sh

soak: fuzz ## the long forms, before a release
	EDGEPREP_SOAK=1 $(GO) test -timeout 2h -count=1 -p 1 -v -run 'Kill|Soak' ./internal/apply ./internal/mirror ./test/faults

clean:
	rm -rf $(BIN)

# make help lists what there is.
PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      ?= go

# The entry point records what the process was given before the Go runtime changes it
# (upconv/internal/birth): signal dispositions, limits, closed descriptors.
ENTRY    = github.com/upconv/upconv/upconv/internal/birth.entry
LDFLAGS  = -s -w -X main.version=$(VERSION) -E $(ENTRY)
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# A directory with a plain C supervisor, floor.c, to measure against; empty: none.
FLOOR   ?= $(wildcard ../shared/floor)
FUZZTIME ?= 30s
COUNT   ?= 1
BINARY  ?= bin/upconv
# Which suites make fidelity runs, a regular expression.
SUITES  ?= .

.PHONY: help build install demo test test-unit test-integration fidelity lint bench fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## a static binary, bin/upconv
	$(BUILD) -o $(BINARY) ./cmd/upconv

install: build ## install it to $(BINDIR) (PREFIX=, DESTDIR=)
	install -D -m 755 $(BINARY) $(DESTDIR)$(BINDIR)/upconv

demo: build ## see it work; needs no privileges and leaves nothing behind
	./$(BINARY) demo

test: test-unit test-integration ## all tests; those that need root are skipped, and say so, without it

test-unit: ## tests of the packages, with the race detector
	CGO_ENABLED=1 $(GO) test -race -count=$(COUNT) ./cmd/... ./upconv/... ./nsdial/... ./seccompx/...

test-integration: build ## whole programs in real namespaces
	UPCONV_BIN=$(abspath $(BINARY)) $(GO) test -count=$(COUNT) -timeout 20m ./integration/...

fidelity: build ## others' test suites with every connection swapped for its like, against native; needs root (SUITES=)
	UPCONV_BIN=$(abspath $(BINARY)) $(GO) run ./integration/fidelity -run '$(SUITES)'

lint: ## gofmt, vet (amd64 and arm64), staticcheck, cross-build
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	GOARCH=arm64 $(BUILD) -o /dev/null ./cmd/upconv
	$(STATICCHECK) ./...

bench: build ## figures, paired with native in one run, as a table and in bench.json; needs root
	UPCONV_BIN=$(abspath $(BINARY)) UPCONV_FLOOR=$(abspath $(FLOOR)) UPCONV_BENCH_JSON=$(abspath bench.json) $(GO) test -run "^$$" -bench Figures -benchtime 1x -timeout 30m ./integration

fuzz: ## fuzz every parser for FUZZTIME each
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

clean: ## remove what was built
	rm -rf bin bench.json

# make help lists what there is.
PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      ?= go

# The entry point records what the process was given before the Go runtime changes it
# (upconv/internal/birth): signal dispositions, limits, closed descriptors.
ENTRY    = github.com/upconv/upconv/upconv/internal/birth.entry
LDFLAGS  = -s -w -X main.version=$(VERSION) -E $(ENTRY) $(if $(TEXT),-T $(TEXT))
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# A directory with a plain C supervisor, floor.c, to measure against; empty: none.
FLOOR   ?= $(wildcard ../shared/floor)
FUZZTIME ?= 30s
COUNT   ?= 1
BINARY  ?= bin/upconv
# Which suites make fidelity runs, a regular expression.
SUITES  ?= .
# What test-refused refuses, one run each: names of integration/testdata/refuse.c, with commas between those of one run. Not
# those without which upconv run, --netns (setns) or --isolate (clone newuser) is an error: TestRefused has them.
REFUSE  ?= kcmp; bpf; bpf attach; kcmp,bpf; ptrace; pidfd_open thread,bpf,kcmp; unshare; close_range; fchown,fchmod; prlimit64 of others; \
	sched_setaffinity,sched_getaffinity,getcpu,ioctl sync wake-up; signalfd; prctl subreaper; socket raw; socket sock_diag; \
	ioctl pidfd info; ioctl socket namespace
ERRNO   ?= EPERM
# Integration tests that take two thirds of the time.
LONG    ?= TestUDP|TestUDPUnprivileged|TestUDPClients|TestUDPSwapAtSocket|TestUDPAtBest|TestUDPWaiting|TestUDPBlocked|TestUDPSignals|TestResolvers|$\
	TestResolversFailOver|TestIperfUDP|TestOptions|TestMemory|TestNAT64Errors|TestRejectSays|TestRejectHolds

.PHONY: help build install demo test test-unit test-integration test-refused fidelity hostile lint bench fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## a static binary, bin/upconv
	$(BUILD) -o $(BINARY) ./cmd/upconv

install: build ## install it to $(BINDIR) (PREFIX=, DESTDIR=)
	install -D -m 755 $(BINARY) $(DESTDIR)$(BINDIR)/upconv

demo: build ## see it work; needs no privileges and leaves nothing behind
	./$(BINARY) demo

# It runs go test, and ends with what was skipped, and why. TESTS and EXCEPT are regular expressions.
TALLY    = CGO_ENABLED=1 UPCONV_BIN=$(abspath $(BINARY)) $(GO) run ./integration/tally
ONLY     = -count=$(COUNT) $(if $(TESTS),-run '$(TESTS)') $(if $(EXCEPT),-skip '$(EXCEPT)')
UNIT     = -race $(ONLY) ./cmd/... ./upconv/... ./nsdial/... ./seccompx/...
WHOLE    = $(ONLY) -timeout 20m ./integration/...

# How often a test that has failed is run again, alone, if hardly any has: one that passes each time is told of as unsteady.
AGAIN   ?= 3

test: build ## all tests; an ordinary user's run in a user namespace, and end with what cannot (TESTS=, EXCEPT=)
	TALLY_AGAIN=$(AGAIN) $(TALLY) $(UNIT) -- $(WHOLE)

test-unit: ## tests of the packages, with the race detector
	$(TALLY) $(UNIT)

test-integration: build ## whole programs in real namespaces
	$(TALLY) $(WHOLE)

test-refused: ## the integration tests but for LONG, with each of upconv's own calls refused in turn (REFUSE=, ERRNO=, TESTS=, LONG=)
	@failed=; IFS=';'; set -f; for calls in $$(echo '$(REFUSE)' | sed 's/; */;/g'); do echo "refused: $$calls ($(ERRNO))"; \
	  UPCONV_REFUSE="$$calls" UPCONV_REFUSE_ERRNO=$(ERRNO) UPCONV_TEST_LOSSES=integration/testdata/losses CGO_ENABLED=1 nice $(GO) run ./integration/tally \
	    -count=$(COUNT) $(if $(TESTS),-run '$(TESTS)') $(if $(LONG),-skip '^($(LONG))$$') -timeout 30m ./integration || failed="$$failed; $$calls"; \
	  done; test -z "$$failed" || { echo "failed under$$failed"; exit 1; }

fidelity: build ## others' test suites with every connection swapped for its like, against native; needs root (SUITES=)
	UPCONV_BIN=$(abspath $(BINARY)) $(GO) run ./integration/fidelity -run '$(SUITES)'

# How long the hostile programs take in all, in seconds; or, instead, how many tries of each kind they make.
SECONDS ?= 500
TRIES   ?=
# Other tests of what a program must not get, and whom it must not hold up.
SECURE   = TestHomecoming|TestReject|TestUnixUser|TestHoldup|TestLandlockRace|TestSwapRaces|TestConnectIOUring|TestParent.*Killed|TestLaunchGives

hostile: build ## programs that try to get past the policy, for SECONDS or TRIES of each kind, as a table; and other such tests
	HOSTILE_SECONDS=$(SECONDS) HOSTILE_TRIES=$(TRIES) HOSTILE_TABLE=$(abspath hostile.txt) $(TALLY) -count=1 -run '^TestHostile$$' -timeout 0 ./integration; \
	  status=$$?; cat hostile.txt; exit $$status
	$(TALLY) -count=1 -run '^($(SECURE))' ./integration

lint: ## gofmt, vet (amd64 and arm64), staticcheck, cross-build
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	GOARCH=arm64 $(BUILD) -o /dev/null ./cmd/upconv
	$(STATICCHECK) ./...

bench: build ## figures, paired with native in one run, as a table and in bench.json; needs root
	UPCONV_BIN=$(abspath $(BINARY)) UPCONV_FLOOR=$(abspath $(FLOOR)) UPCONV_BENCH_JSON=$(abspath bench.json) $(GO) test -run "^$$" -bench Figures -benchtime 1x -timeout 30m ./integration

fuzz: ## fuzz every parser for FUZZTIME each, all of them before it fails
	@failed=; for pkg in $$($(GO) list ./...); do \
	  targets=$$($(GO) test -list '^Fuzz' $$pkg) || failed="$$failed $$pkg"; \
	  for target in $$(echo "$$targets" | grep '^Fuzz'); do \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || failed="$$failed $$pkg.$$target"; \
	  done; done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

clean: ## remove what was built
	rm -rf bin bench.json hostile.txt

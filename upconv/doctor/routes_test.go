package doctor

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHasDefaultRoute(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for table, want := range map[string]bool{
		"":   false,
		head: false,
		head + "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n": true,
		head + "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n": false,
		head + "eth0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n": false, // not up
		head + "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n":    false, // unreachable
		head + "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t000000FE\t0\t0\t0\n": false, // 0.0.0.0/7
	} {
		if got := hasDefaultRoute(table); got != want {
			t.Errorf("%q: %v, want %v", strings.TrimPrefix(table, head), got, want)
		}
	}
}

func FuzzHasDefaultRoute(f *testing.F) {
	f.Add("eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
	f.Fuzz(func(t *testing.T, text string) {
		if (hasDefaultRoute(text) || hasDefaultRoute6(text)) && !strings.Contains(text, "00000000") {
			t.Errorf("%q: a default route", text)
		}
	})
}

func TestOwnAddresses(t *testing.T) {
	assigned, err := OwnAddresses("")
	if err != nil {
		t.Fatal(err)
	}
	if !assigned(netip.MustParseAddr("127.0.0.1")) || assigned(netip.MustParseAddr("203.0.113.99")) {
		t.Error("127.0.0.1 is not an address here, or 203.0.113.99 is")
	}
	if _, err := OwnAddresses("/nosuch"); err == nil {
		t.Error("no error for a namespace that is not there")
	}
}

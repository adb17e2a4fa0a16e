package nat64

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestFindPrefixes(t *testing.T) {
	for _, c := range []struct {
		name    string
		records string // ADDR or ADDR/TTL
		want    string
		ttl     uint32
	}{
		{"RFC 7050 section 3", "64:ff9b::192.0.0.170/100 64:ff9b::192.0.0.171/90", "64:ff9b::/96", 90},
		{"/32", "2001:db8:c000:aa:: 2001:db8:c000:ab::", "2001:db8::/32", 60},
		{"/40", "2001:db8:1c0:0:aa::", "2001:db8:100::/40", 60},
		{"/48", "2001:db8:122:c000:0:aa00::", "2001:db8:122::/48", 60},
		{"/56", "2001:db8:122:3c0:0:aa::", "2001:db8:122:300::/56", 60},
		{"/64", "2001:db8:122:344:c0:0:aa00::", "2001:db8:122:344::/64", 60},
		{"/96", "2001:db8:122:344::192.0.0.171", "2001:db8:122:344::/96", 60},
		{"several, the well-known one last", "64:ff9b::192.0.0.170 2001:db8:2::192.0.0.170 2001:db8:1::192.0.0.171", "2001:db8:1::/96 2001:db8:2::/96 64:ff9b::/96", 60},
		{"one address of several lengths", "2001:db8::192.0.0.170 2001:db8:c000:aa::", "2001:db8::/32 2001:db8::/96", 60},
		{"octet u", "2001:db8:c000:aa:100::", "", 0},
		{"octet u of /96", "2001:db8:0:0:100::192.0.0.170", "", 0},
		{"a suffix", "2001:db8:c000:aa:0:1:2:3", "2001:db8::/32", 60},
		{"neither address", "2001:db8::192.0.0.172 2001:db8::1", "", 0},
		{"TTL of those only that count", "2001:db8::1/5 2001:db8::192.0.0.170/50", "2001:db8::/96", 50},
		{"TTL 0", "2001:db8::192.0.0.170/0 2001:db8::192.0.0.171/50", "2001:db8::/96", 0},
		{"twice in one: the other record tells", "2001:db8:c000:aa::192.0.0.170 2001:db8:c000:aa::192.0.0.171", "2001:db8:c000:aa::/96", 60},
		{"twice in one, and no other", "2001:db8:c000:aa::192.0.0.170", "", 0},
		{"twice in one, off the places", "2001:c0:0:aa00::192.0.0.170", "", 0},
		{"two in one, both with a suffix", "2001:db8:c000:aa:c0:0:ab00:1", "", 0},
		{"IPv4-mapped", "::ffff:192.0.0.170", "", 0},
		{"link-local", "fe80::192.0.0.170", "", 0},
		{"nothing", "", "", 0},
	} {
		var records []addressRecord
		for _, text := range strings.Fields(c.records) {
			a, ttl, ok := strings.Cut(text, "/")
			r := addressRecord{addr(a), 60}
			if ok {
				r.ttl = 0
				for _, digit := range ttl {
					r.ttl = r.ttl*10 + uint32(digit-'0')
				}
			}
			records = append(records, r)
		}
		for range 2 {
			prefixes, ttl := findPrefixes(records)
			var got []string
			for _, p := range prefixes {
				got = append(got, p.String())
			}
			if s := strings.Join(got, " "); s != c.want || ttl != c.ttl {
				t.Errorf("%s: found %q for %d s, want %q for %d s", c.name, s, ttl, c.want, c.ttl)
			}
			slices.Reverse(records)
		}
	}
}

// Whatever prefix there is, the two records of it give it away, and nothing else.
func FuzzFindPrefixes(f *testing.F) {
	f.Add([]byte("\x20\x01\x0d\xb8\x01\x22\x03\x44\x00\x00\x00\x00\x00\x00\x00\x00"), uint8(1))
	f.Add([]byte("\x20\x01\x0d\xb8\xc0\x00\x00\xaa\x00\x00\x00\x00\x00\x00\x00\x00"), uint8(5))
	f.Add([]byte("\x20\xc0\x00\x00\xab\x00\xaa\xc0\x00\xc0\x00\x00\x00\x00\x00\x00"), uint8(5))
	f.Fuzz(func(t *testing.T, prefix []byte, length uint8) {
		var v6 [16]byte
		copy(v6[:], prefix)
		p, err := NewPrefix(netip.PrefixFrom(netip.AddrFrom16(v6), []int{32, 40, 48, 56, 64, 96}[length%6]).Masked())
		if err != nil {
			return
		}
		found, _ := findPrefixes([]addressRecord{{p.put(wellKnown4[0]), 1}, {p.put(wellKnown4[1]), 1}})
		if len(found) > 1 || len(found) == 1 && found[0] != p.Netip() {
			t.Fatalf("%s: found %v", p, found)
		}
		holds := func(known netip.Addr) bool { // the prefix itself
			b, k := v6, known.As4()
			for i := p.bits / 8; i < 16; i++ {
				b[i] = 0
			}
			return strings.Contains(string(b[:]), string(k[:]))
		}
		if len(found) == 0 && !holds(wellKnown4[0]) && !holds(wellKnown4[1]) && p.bits == 96 {
			t.Fatalf("%s: not found", p)
		}
	})
}

func TestParseResolvConf(t *testing.T) {
	for _, c := range []struct {
		text string
		want resolvConf
	}{
		{"", resolvConf{nil, 5 * time.Second, 2, false}},
		{"# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nsearch example.com\nnameserver\nnameserver example.com\n", resolvConf{nil, 5 * time.Second, 2, false}},
		{"nameserver 192.0.2.1\nnameserver\t2001:db8::1 # home\nnameserver fe80::1%eth0\nnameserver 192.0.2.4",
			resolvConf{[]string{"192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%eth0]:53"}, 5 * time.Second, 2, false}},
		{"options timeout:1 attempts:3 rotate use-vc\n", resolvConf{nil, time.Second, 3, true}},
		{"options timeout:99 attempts:99\n", resolvConf{nil, 30 * time.Second, 5, false}},
		{"options timeout:x attempts:0 timeout:-1 timeout\noptions\n", resolvConf{nil, 5 * time.Second, 2, false}},
	} {
		got := parseResolvConf(c.text)
		if !slices.Equal(got.servers, c.want.servers) || got.timeout != c.want.timeout || got.attempts != c.want.attempts || got.tcp != c.want.tcp {
			t.Errorf("%q: %+v, want %+v", c.text, got, c.want)
		}
	}
}

// FuzzResolvConf reads a file that anybody may have written: what comes of it can be asked.
func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions timeout:1 attempts:3 use-vc\n")
	f.Fuzz(func(t *testing.T, text string) {
		conf := parseResolvConf(text)
		if len(conf.servers) > maxNameservers || conf.attempts < 1 || conf.attempts > maxAttempts || conf.timeout < time.Second || conf.timeout > maxTimeout*time.Second {
			t.Errorf("%q: %+v", text, conf)
		}
		for _, server := range conf.servers {
			host, port, err := net.SplitHostPort(server)
			if err != nil || port != "53" {
				t.Errorf("%q: server %q, %v", text, server, err)
			} else if _, err := netip.ParseAddr(host); err != nil {
				t.Errorf("%q: server %q, %v", text, server, err)
			}
		}
	})
}

// A resolver answers on loopback, over UDP and TCP. handle returns the messages to send for a
// query.
type resolver struct {
	udp     net.PacketConn
	tcp     net.Listener
	queries atomic.Int32
}

func newResolver(t *testing.T, handle func(network string, query *dnsmessage.Message) [][]byte) *resolver {
	t.Helper()
	r := &resolver{}
	var err error
	if r.udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.udp.Close() })
	if r.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.tcp.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := r.udp.ReadFrom(buf)
			if err != nil {
				return
			}
			var query dnsmessage.Message
			if query.Unpack(buf[:n]) != nil {
				return
			}
			r.queries.Add(1)
			for _, m := range handle("udp", &query) {
				r.udp.WriteTo(m, from)
			}
		}
	}()
	go func() {
		for {
			conn, err := r.tcp.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			io.ReadFull(conn, length[:])
			buf := make([]byte, binary.BigEndian.Uint16(length[:]))
			io.ReadFull(conn, buf)
			var query dnsmessage.Message
			if query.Unpack(buf) == nil {
				r.queries.Add(1)
				for _, m := range handle("tcp", &query) {
					conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
				}
			}
			conn.Close()
		}
	}()
	return r
}

// dialer sends what is for 192.0.2.1, .2, ... to the resolvers in their order; nowhere else.
func dialer(resolvers ...*resolver) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to := netip.MustParseAddrPort(address)
		i := int(to.Addr().As4()[3]) - 1
		if i >= len(resolvers) || to.Port() != 53 {
			return nil, errors.New("connection refused")
		}
		target := resolvers[i].udp.LocalAddr().String()
		if network == "tcp" {
			target = resolvers[i].tcp.Addr().String()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, target)
	}
}

// reply makes an answer to a query.
func reply(t *testing.T, query *dnsmessage.Message, change func(*dnsmessage.Message)) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true}, Questions: query.Questions}
	if change != nil {
		change(&m)
	}
	packed, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}

func aaaa(name, a string, ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.AAAAResource{AAAA: addr(a).As16()},
	}
}

func soa(ttl, min uint32) dnsmessage.Resource {
	name := dnsmessage.MustNewName("ipv4only.arpa.")
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.SOAResource{NS: name, MBox: name, MinTTL: min},
	}
}

func TestDiscover(t *testing.T) {
	good := func(m *dnsmessage.Message) {
		m.Answers = []dnsmessage.Resource{aaaa("IPv4only.ARPA.", "2001:db8:64::192.0.0.170", 300), aaaa("ipv4only.arpa.", "2001:db8:64::192.0.0.171", 200)}
	}
	rcode := func(code dnsmessage.RCode) func(*dnsmessage.Message) {
		return func(m *dnsmessage.Message) { m.RCode = code }
	}
	const one = "nameserver 192.0.2.1\noptions attempts:1\n"
	for _, c := range []struct {
		name   string
		conf   string
		handle func(network string, query *dnsmessage.Message) [][]byte
		want   string
		ttl    time.Duration
		err    error
		say    string
	}{
		{name: "found", conf: one, want: "2001:db8:64::/96", ttl: 200 * time.Second,
			handle: func(_ string, q *dnsmessage.Message) [][]byte { return [][]byte{reply(t, q, good)} }},
		{name: "over TCP when asked to", conf: one + "options use-vc", want: "2001:db8:64::/96", ttl: 200 * time.Second,
			handle: func(network string, q *dnsmessage.Message) [][]byte {
				if network != "tcp" {
					return [][]byte{reply(t, q, rcode(dnsmessage.RCodeRefused))}
				}
				return [][]byte{reply(t, q, good)}
			}},
		{name: "over TCP when truncated", conf: one, want: "2001:db8:64::/96", ttl: 200 * time.Second,
			handle: func(network string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, func(m *dnsmessage.Message) {
					if m.Truncated = network == "udp"; !m.Truncated {
						good(m)
					}
				})}
			}},
		{name: "alias", conf: one, want: "2001:db8:64::/96", ttl: 9 * time.Second,
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, func(m *dnsmessage.Message) {
					m.Answers = []dnsmessage.Resource{
						{Header: dnsmessage.ResourceHeader{Name: ipv4only, Class: dnsmessage.ClassINET, TTL: 1}, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("a.example.")}},
						aaaa("b.example.", "2001:db8:bad::192.0.0.170", 1), aaaa("a.example.", "2001:db8:64::192.0.0.170", 9),
					}
				})}
			}},
		{name: "strangers' answers first", conf: one, want: "2001:db8:64::/96", ttl: 200 * time.Second,
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				other := *q
				other.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("example.com."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}}
				return [][]byte{
					{}, []byte("short"),
					reply(t, q, func(m *dnsmessage.Message) { m.ID++; m.RCode = dnsmessage.RCodeNameError }),
					reply(t, q, func(m *dnsmessage.Message) { m.Response = false }),
					reply(t, &other, nil),
					reply(t, q, good),
				}
			}},
		{name: "no such name", conf: one, err: ErrNoNAT64, ttl: 30 * time.Second,
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, func(m *dnsmessage.Message) {
					m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(60, 30)}
				})}
			}},
		{name: "no address", conf: one, err: ErrNoNAT64, say: "no NAT64",
			handle: func(_ string, q *dnsmessage.Message) [][]byte { return [][]byte{reply(t, q, nil)} }},
		{name: "addresses without the well-known ones", conf: one, err: ErrMalformedDNS, say: "2001:db8::1",
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, func(m *dnsmessage.Message) {
					m.Answers = []dnsmessage.Resource{aaaa("ipv4only.arpa.", "2001:db8::1", 1)}
				})}
			}},
		{name: "cut off", conf: one, err: ErrMalformedDNS,
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				m := reply(t, q, good)
				return [][]byte{m[:len(m)-3]}
			}},
		{name: "truncated over TCP too", conf: one, err: ErrMalformedDNS,
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, func(m *dnsmessage.Message) { m.Truncated = true })}
			}},
		{name: "server failure", conf: one, err: ErrNoAnswer, say: "192.0.2.1:53: the resolver failed: ServerFailure",
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, rcode(dnsmessage.RCodeServerFailure))}
			}},
		{name: "refused, without the question", conf: one, err: ErrNoAnswer, say: "Refused",
			handle: func(_ string, q *dnsmessage.Message) [][]byte {
				return [][]byte{reply(t, q, func(m *dnsmessage.Message) { m.Questions, m.RCode = nil, dnsmessage.RCodeRefused })}
			}},
		{name: "connection closed", conf: one + "options use-vc", err: ErrNoAnswer, say: "EOF",
			handle: func(_ string, q *dnsmessage.Message) [][]byte { return nil }},
		{name: "no resolver there", conf: "nameserver 192.0.2.9", err: ErrNoAnswer, say: "refused"},
		{name: "no resolver", conf: "search example.com\n", err: ErrNoResolver},
		{name: "empty", conf: "", err: ErrNoResolver},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newResolver(t, c.handle)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			prefixes, ttl, err := Discover(ctx, dialer(r), c.conf)
			if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.say) || err != nil && strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want %v and %q", err, c.err, c.say)
			}
			if ttl != c.ttl {
				t.Errorf("for %v, want %v", ttl, c.ttl)
			}
			if err == nil && (len(prefixes) != 1 || prefixes[0].String() != c.want) {
				t.Errorf("found %v, want %s", prefixes, c.want)
			}
		})
	}
}

func TestDiscoverTimeout(t *testing.T) {
	t.Parallel()
	silent := newResolver(t, func(string, *dnsmessage.Message) [][]byte { return nil })
	good := newResolver(t, func(_ string, q *dnsmessage.Message) [][]byte {
		return [][]byte{reply(t, q, func(m *dnsmessage.Message) {
			m.Answers = []dnsmessage.Resource{aaaa("ipv4only.arpa.", "64:ff9b::192.0.0.170", 1)}
		})}
	})
	// The next one is asked.
	prefixes, _, err := Discover(t.Context(), dialer(silent, good), "nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions timeout:1\n")
	if err != nil || len(prefixes) != 1 || prefixes[0] != WellKnownPrefix.Netip() {
		t.Errorf("found %v, %v", prefixes, err)
	}
	if silent.queries.Load() != 1 || good.queries.Load() != 1 {
		t.Errorf("asked %d and %d times, want once each", silent.queries.Load(), good.queries.Load())
	}
	// As often as asked for.
	began := time.Now()
	_, _, err = Discover(t.Context(), dialer(silent), "nameserver 192.0.2.1\noptions timeout:1 attempts:2\n")
	if !errors.Is(err, ErrNoAnswer) || time.Since(began) < 2*time.Second {
		t.Errorf("error %v after %v, want ErrNoAnswer after 2 s", err, time.Since(began))
	}
	if silent.queries.Load() != 3 {
		t.Errorf("asked %d times, want 3", silent.queries.Load())
	}
	// The caller's deadline ends it.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	if _, _, err = Discover(ctx, dialer(silent), "nameserver 192.0.2.1\n"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrNoAnswer) {
		t.Errorf("error %v", err)
	}
	if time.Since(began) > 4*time.Second {
		t.Errorf("took %v", time.Since(began))
	}
}

func FuzzParseAnswer(f *testing.F) {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{Response: true}, Questions: []dnsmessage.Question{ipv4onlyQuestion},
		Answers: []dnsmessage.Resource{aaaa("ipv4only.arpa.", "64:ff9b::192.0.0.170", 1)}, Authorities: []dnsmessage.Resource{soa(1, 2)},
	}
	seed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	m.Answers = nil
	seed, _ = m.Pack()
	f.Add(seed)
	f.Fuzz(func(t *testing.T, message []byte) {
		answer, err := parseAnswer(message, 0)
		if (answer == nil) == (err == nil) {
			t.Fatalf("%v, %v", answer, err)
		}
		if err == nil {
			answer.prefixes()
		}
	})
}

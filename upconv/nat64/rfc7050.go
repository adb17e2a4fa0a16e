package nat64

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Why Discover found no prefix.
var (
	ErrNoResolver    = errors.New("no resolver: resolv.conf names no nameserver")
	ErrNoAnswer      = errors.New("no answer from any resolver")
	ErrNoNAT64       = errors.New("there is no NAT64 here: the resolver has no IPv6 address of ipv4only.arpa (RFC 7050)")
	ErrMalformedDNS  = errors.New("malformed answer from the resolver")
	errNotTheAnswer  = errors.New("not the answer to the question") // read on
	errTruncated     = errors.New("truncated")
	errServerFailure = errors.New("the resolver failed")
)

// DialFunc connects to address (ADDR:PORT, the address with its scope) over network, "udp" or
// "tcp".
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// wellKnown4 are the addresses of ipv4only.arpa: RFC 7050 section 2.2.
var wellKnown4 = [2]netip.Addr{netip.MustParseAddr("192.0.0.170"), netip.MustParseAddr("192.0.0.171")}

var (
	ipv4only         = dnsmessage.MustNewName("ipv4only.arpa.")
	ipv4onlyQuestion = dnsmessage.Question{Name: ipv4only, Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}
)

// Discover finds the prefixes of the NAT64s of a network by RFC 7050: it asks the resolvers of a
// text of the form of resolv.conf(5) for the IPv6 addresses of ipv4only.arpa, over sockets that
// dial makes. The prefixes are valid for NewPrefix, each there once, in an order that does not
// depend on that of the answer: the well-known one, which cannot be used for every address, last.
// They may be used for ttl.
//
// The error is ErrNoResolver, ErrNoAnswer, ErrNoNAT64 or ErrMalformedDNS, wrapped; or the
// context's. With ErrNoNAT64 ttl is how long that is so, where the resolver has said so, and
// otherwise 0.
func Discover(ctx context.Context, dial DialFunc, resolvConf string) (prefixes []netip.Prefix, ttl time.Duration, err error) {
	conf := parseResolvConf(resolvConf)
	if len(conf.servers) == 0 {
		return nil, 0, ErrNoResolver
	}
	var reasons []error
	malformed := false
	for range conf.attempts {
		for _, server := range conf.servers {
			network := "udp"
			if conf.tcp {
				network = "tcp"
			}
			answer, err := ask(ctx, dial, network, server, conf.timeout)
			if errors.Is(err, errTruncated) && network == "udp" {
				answer, err = ask(ctx, dial, "tcp", server, conf.timeout)
			}
			if ctx.Err() != nil {
				return nil, 0, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
			}
			if err == nil {
				prefixes, ttl, err = answer.prefixes()
				if err == nil || errors.Is(err, ErrNoNAT64) {
					return prefixes, ttl, err
				}
			}
			malformed = malformed || errors.Is(err, ErrMalformedDNS)
			reason := fmt.Errorf("%s: %w", server, err)
			if !slices.ContainsFunc(reasons, func(e error) bool { return e.Error() == reason.Error() }) {
				reasons = append(reasons, reason)
			}
		}
	}
	why := errors.Join(reasons...)
	text := strings.ReplaceAll(why.Error(), "\n", "; ")
	if malformed {
		return nil, 0, fmt.Errorf("%w: %s", ErrMalformedDNS, text)
	}
	return nil, 0, fmt.Errorf("%w: %s", ErrNoAnswer, text)
}

// addressRecord is an AAAA record.
type addressRecord struct {
	addr netip.Addr
	ttl  uint32
}

// answer64 is the answer to the question for ipv4only.arpa.
type answer64 struct {
	records  []addressRecord
	negative uint32 // TTL of there being no record, RFC 2308 section 5; 0: unknown
}

func (a *answer64) prefixes() ([]netip.Prefix, time.Duration, error) {
	if len(a.records) == 0 {
		return nil, time.Duration(a.negative) * time.Second, ErrNoNAT64
	}
	found, ttl := findPrefixes(a.records)
	if len(found) == 0 {
		return nil, 0, fmt.Errorf("%w: none of the addresses of ipv4only.arpa, the first is %s, has 192.0.0.170 or 192.0.0.171 in it",
			ErrMalformedDNS, a.records[0].addr)
	}
	return found, time.Duration(ttl) * time.Second, nil
}

// findPrefixes finds the prefixes in the AAAA records of ipv4only.arpa and the least TTL of the
// records that have one: RFC 7050 section 3.
func findPrefixes(records []addressRecord) (prefixes []netip.Prefix, ttl uint32) {
	for _, r := range records {
		p, ok := findPrefix(r.addr)
		if !ok {
			continue
		}
		if len(prefixes) == 0 || r.ttl < ttl {
			ttl = r.ttl
		}
		if !slices.Contains(prefixes, p.Netip()) {
			prefixes = append(prefixes, p.Netip())
		}
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if wellKnown := WellKnownPrefix.Netip(); (a == wellKnown) != (b == wellKnown) {
			if a == wellKnown {
				return 1
			}
			return -1
		}
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	return prefixes, ttl
}

// findPrefix finds the prefix that one of the well-known addresses is embedded under in addr.
//
// A well-known address that stands in addr more than once says nothing (RFC 7050 section 3: there
// is a second record, with the other one). If both are found, in different places, one of them is
// part of the prefix by chance: the one with zeros behind it counts, since a suffix is reserved and
// should be zero.
func findPrefix(addr netip.Addr) (Prefix, bool) {
	if !addr.Is6() || addr.Is4In6() || addr.Zone() != "" {
		return Prefix{}, false
	}
	v6 := addr.As16()
	var candidates, clean []Prefix
	for _, known := range wellKnown4 {
		times := 0
		var found Prefix
		for _, place := range places64 {
			if at4(v6, place.at) != known {
				continue
			}
			times++
			if place.bits != 0 {
				found, _ = NewPrefix(netip.PrefixFrom(addr, place.bits).Masked())
			}
		}
		if times != 1 || !found.IsValid() || v6[uOctet] != 0 {
			continue
		}
		candidates = append(candidates, found)
		if found.put(known) == addr {
			clean = append(clean, found)
		}
	}
	if len(candidates) > 1 {
		candidates = clean
	}
	if len(candidates) != 1 {
		return Prefix{}, false
	}
	return candidates[0], true
}

// place64 is a place in an IPv6 address where an IPv4 address may be seen.
type place64 struct {
	at   [4]int
	bits int // the length of the prefix that puts it there; 0 where none does
}

// places64 are the places of RFC 6052, and every other four octets in a row.
var places64 = func() (places []place64) {
	for _, bits := range []int{32, 40, 48, 56, 64, 96} {
		places = append(places, place64{octets64(bits), bits})
	}
	for i := range 13 {
		row := [4]int{i, i + 1, i + 2, i + 3}
		if !slices.ContainsFunc(places, func(p place64) bool { return p.at == row }) {
			places = append(places, place64{row, 0})
		}
	}
	return places
}()

// ask asks one resolver once.
func ask(ctx context.Context, dial DialFunc, network, server string, timeout time.Duration) (*answer64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	id := uint16(rand.Uint32())
	// The CD bit stays clear: with it set a resolver need not synthesize (RFC 6147 section 5.5).
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{ipv4onlyQuestion},
	}).Pack()
	if err != nil {
		return nil, err
	}
	stream := network == "tcp"
	if stream {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, tidy(ctx, err)
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		if stream {
			n, err = readMessage(conn, buf)
		} else {
			n, err = conn.Read(buf)
		}
		if err != nil {
			return nil, tidy(ctx, err)
		}
		answer, err := parseAnswer(buf[:n], id)
		if errors.Is(err, errNotTheAnswer) && !stream {
			continue // late, or somebody else's
		}
		if errors.Is(err, errNotTheAnswer) || errors.Is(err, errTruncated) && stream {
			return nil, fmt.Errorf("%w: %w", ErrMalformedDNS, err)
		}
		return answer, err
	}
}

// tidy returns the error of a connection, or that it took too long.
func tidy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readMessage reads one message from a stream: RFC 1035 section 4.2.2.
func readMessage(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, err
	}
	return io.ReadFull(r, buf[:binary.BigEndian.Uint16(buf)])
}

// parseAnswer reads the answer to the question for ipv4only.arpa. The error is errNotTheAnswer,
// errTruncated, errServerFailure or ErrMalformedDNS, wrapped.
func parseAnswer(message []byte, id uint16) (*answer64, error) {
	malformed := func(err error) error { return fmt.Errorf("%w: %w", ErrMalformedDNS, err) }
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.ID != id || !header.Response {
		return nil, errNotTheAnswer
	}
	question, err := p.Question()
	switch {
	case errors.Is(err, dnsmessage.ErrSectionDone) && header.RCode != dnsmessage.RCodeSuccess:
		// Some leave the question out of such an answer.
	case err != nil:
		return nil, malformed(err)
	case question.Type != dnsmessage.TypeAAAA || question.Class != dnsmessage.ClassINET || !sameName(question.Name, ipv4only):
		return nil, errNotTheAnswer
	}
	switch header.RCode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
	default:
		return nil, fmt.Errorf("%w: %s", errServerFailure, strings.TrimPrefix(header.RCode.String(), "RCode"))
	}
	if header.Truncated {
		return nil, errTruncated
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, malformed(err)
	}
	answer := &answer64{}
	owner := ipv4only // and what it is an alias of
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return nil, malformed(err)
		}
		switch {
		case h.Class == dnsmessage.ClassINET && h.Type == dnsmessage.TypeAAAA && sameName(h.Name, owner):
			r, err := p.AAAAResource()
			if err != nil {
				return nil, malformed(err)
			}
			answer.records = append(answer.records, addressRecord{netip.AddrFrom16(r.AAAA), h.TTL})
		case h.Class == dnsmessage.ClassINET && h.Type == dnsmessage.TypeCNAME && sameName(h.Name, owner):
			r, err := p.CNAMEResource()
			if err != nil {
				return nil, malformed(err)
			}
			owner = r.CNAME
		default:
			if err := p.SkipAnswer(); err != nil {
				return nil, malformed(err)
			}
		}
	}
	for len(answer.records) == 0 {
		h, err := p.AuthorityHeader()
		if err != nil {
			break // no SOA: then it is not known for how long
		}
		if h.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				break
			}
			continue
		}
		if soa, err := p.SOAResource(); err == nil {
			answer.negative = min(h.TTL, soa.MinTTL)
		}
		break
	}
	return answer, nil
}

func sameName(a, b dnsmessage.Name) bool { return strings.EqualFold(a.String(), b.String()) }

package policy

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

const schemaFile = "../../docs/policy.schema.json"

var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile(schemaFile)
})

// validate holds a policy against the published schema, as an editor would.
func validate(text []byte) error {
	s, err := schema()
	if err != nil {
		return err
	}
	var policy any
	if err := yaml.Load(text, &policy); err != nil {
		return err
	}
	return s.Validate(policy)
}

// The schema has the keys that the code has, in all mappings, and requires the same.
func TestSchemaKeys(t *testing.T) {
	f, err := os.Open(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) any {
		v := root
		for _, key := range path {
			v = v.(map[string]any)[key]
		}
		return v
	}
	for _, m := range []struct {
		path []string
		keys []fileKey
	}{{nil, topKeys}, {[]string{"$defs", "rule"}, ruleKeys}, {[]string{"$defs", "mapping"}, mappingKeys}} {
		var names, required, wantNames, wantRequired []string
		names = slices.Sorted(maps.Keys(at(append(m.path, "properties")...).(map[string]any)))
		for _, r := range at(append(m.path, "required")...).([]any) {
			required = append(required, r.(string))
		}
		for _, k := range m.keys {
			wantNames = append(wantNames, k.name)
			if k.required {
				wantRequired = append(wantRequired, k.name)
			}
		}
		slices.Sort(wantNames)
		if !slices.Equal(names, wantNames) || !slices.Equal(required, wantRequired) {
			t.Errorf("%v: keys %v, required %v; the code has %v and %v", m.path, names, required, wantNames, wantRequired)
		}
		if at(append(m.path, "additionalProperties")...) != false {
			t.Errorf("%v: other keys are allowed", m.path)
		}
	}
}

// The schema and the code agree on what is good, and on what is bad as far as a schema can tell.
func TestSchemaExamples(t *testing.T) {
	rule := func(s string) string { return "version: 1\negress:\n- {" + s + "}\n" }
	good := []string{designExample, "version: 1\n", "version: 1\negress: []\neam: []\n"}
	for _, s := range []string{
		"to: '*', via: direct", "to: [10.0.0.0/8, 192.0.2.1], via: reject", "to: '10.0.0.0/8 , 192.0.2.1', via: reject:ECONNREFUSED",
		"to: 0.0.0.0/0, ports: 0, via: netns:blue", "to: '*', ports: 65535, via: netns:/proc/1/ns/net", "to: '*', ports: [1, 2-3, '4'], via: netns:host",
		"to: '*', ports: '1, 2-3,4', via: nat64:auto", "to: '*', proto: udp, via: nat64:2001:db8::/40", "to: '*', via: inet6:fe80::1%eth0",
		"to: '*', via: unix:/run/a b?proxy=v2&root=target", "to: '*', via: unix:@mesh", "to: '*', via: unix:/", "to: '*', via: inet6:::1", "to: '*', proto: tcp, via: unix:/a?b?",
	} {
		good = append(good, rule(s))
	}
	for _, s := range []string{"ipv4: 192.0.2.0/24, ipv6: 2001:db8::/120", "ipv4: 192.0.2.1, ipv6: 2001:db8::1", "ipv4: 0.0.0.0/0, ipv6: 2001:db8::/32"} {
		good = append(good, "version: 1\neam:\n- {"+s+"}\n")
	}
	for _, s := range []string{
		"udp: full", "udp: connected", "udp: off", "udp: 'off'", "swapAt: connect", "swapAt: socket", "swapAt: connect\negress: [{to: '*', via: unix:/a}]",
		"swapAt: socket\nudp: off\negress: [{to: 192.0.2.1, via: direct}, {to: 192.0.2.2, via: reject:EPERM}, {to: '*', via: netns:blue}]",
	} {
		good = append(good, "version: 1\n"+s+"\n")
	}
	bad := []string{"{}\n", "[]\n", "version: 2\n", "version: '1'\n", "version: [1]\n", "version: 1\nfoo: 1\n", "version: 1\negress: {}\n", "version: 1\neam: 1\n", "version: 1\negress: [1]\n",
		"version: 1\nudp: Off\n", "version: 1\nudp: false\n", "version: 1\nudp:\n", "version: 1\nudp: [off]\n", "version: 1\nswapAt: bind\n", "version: 1\nswap-at: socket\n",
		"version: 1\nswapAt: socket\negress: [{to: '*', via: nat64:auto}]\n", "version: 1\nswapAt: socket\negress: [{to: '*', via: unix:/a}]\n", "version: 1\nswapAt: socket\negress: [{to: '*', via: inet6:::1}]\n"}
	for _, s := range []string{
		"to: '*'", "via: direct", "to: [], via: direct", "to: '', via: direct", "to: 10.0.0.0/33, via: direct", "to: 10.0.0, via: direct", "to: 256.0.0.1, via: direct",
		"to: 010.0.0.1, via: direct", "to: example.com, via: direct", "to: '10.0.0.1:80', via: direct", "to: 2001:db8::1, via: direct", "to: 1, via: direct", "to: {}, via: direct",
		"to: ['10.0.0.0/8, 192.0.2.1'], via: direct", "to: '*', via: direct, x: y", "to: '*', via: direct, ports: 65536", "to: '*', via: direct, ports: -1", "to: '*', via: direct, ports: 1.5",
		"to: '*', via: direct, ports: http", "to: '*', via: direct, ports: '080'", "to: '*', via: direct, ports: '1-65536'", "to: '*', via: direct, ports: []", "to: '*', via: direct, ports: ['1,2']",
		"to: '*', via: direct, ports: true", "to: '*', via: direct, proto: sctp", "to: '*', via: direct, proto: [tcp]", "to: '*', via: bogus", "to: '*', via: 1", "to: '*', via: [direct]",
		"to: '*', via: 'netns:'", "to: '*', via: 'direct:x'", "to: '*', via: nat64:2001:db8::/33", "to: '*', via: nat64", "to: '*', via: inet6", "to: '*', via: unix:run", "to: '*', via: reject:42",
	} {
		bad = append(bad, rule(s))
	}
	for _, s := range []string{"ipv4: 192.0.2.0/24", "ipv6: 2001:db8::/120", "ipv4: 192.0.2.0/33, ipv6: 2001:db8::/120", "ipv4: 192.0.2.0/24, ipv6: 2001:db8::/129", "ipv4: x, ipv6: y", "ipv4: 192.0.2.1, ipv6: 2001:db8::1, x: y"} {
		bad = append(bad, "version: 1\neam:\n- {"+s+"}\n")
	}
	for _, text := range good {
		if _, err := ParseFile("p.yaml", []byte(text)); err != nil {
			t.Errorf("the code refuses %q: %v", text, err)
		}
		if err := validate([]byte(text)); err != nil {
			t.Errorf("the schema refuses %q: %v", text, err)
		}
	}
	for _, text := range bad {
		if _, err := ParseFile("p.yaml", []byte(text)); err == nil {
			t.Errorf("the code takes %q", text)
		}
		if err := validate([]byte(text)); err == nil {
			t.Errorf("the schema takes %q", text)
		}
	}
	// What the routes are called is said once more in the description.
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	for r := range strings.SplitSeq(routeForms, ", ") {
		if !strings.Contains(string(text), r) {
			t.Errorf("the schema does not say %q", r)
		}
	}
}

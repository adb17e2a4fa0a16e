package target

import "testing"

func TestMapID(t *testing.T) {
	const two = "         0     100000      65536\n     70000       1000          1\n"
	for _, test := range []struct {
		mapping     string
		id, outside uint32
		ok          bool
	}{
		{"0 0 4294967295\n", 1000, 1000, true},
		{"0 0 4294967295\n", 4294967295, 0, false},
		{two, 0, 100000, true},
		{two, 65535, 165535, true},
		{two, 65536, 0, false},
		{two, 70000, 1000, true},
		{"", 0, 0, false},
	} {
		if outside, ok := mapID([]byte(test.mapping), test.id); outside != test.outside || ok != test.ok {
			t.Errorf("%d is %d, %v by the map %q, want %d, %v", test.id, outside, ok, test.mapping, test.outside, test.ok)
		}
	}
}

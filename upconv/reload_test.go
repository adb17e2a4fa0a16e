package upconv

import (
	"strings"
	"testing"

	"github.com/upconv/upconv/upconv/policy"
)

// A file that is read again may not change the modes, but where flags have set them it does not
// matter what it says.
func TestSameModes(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		file policy.File
		want string
	}{
		{Config{}, policy.File{}, ""},
		{Config{UDP: policy.UDPOff, SwapAt: policy.SwapAtSocket}, policy.File{UDP: policy.UDPOff, SwapAt: policy.SwapAtSocket}, ""},
		{Config{UDP: policy.UDPOff}, policy.File{}, "its udp is full, and the command was started with off"},
		{Config{}, policy.File{UDP: policy.UDPConnected}, "its udp is connected, and the command was started with full"},
		{Config{UDP: policy.UDPOff, UDPFixed: true}, policy.File{UDP: policy.UDPConnected}, ""},
		{Config{SwapAt: policy.SwapAtSocket}, policy.File{}, "its swapAt is connect, and the command was started with socket"},
		{Config{UDPFixed: true}, policy.File{SwapAt: policy.SwapAtSocket}, "its swapAt is socket, and the command was started with connect"},
		{Config{SwapAtFixed: true}, policy.File{SwapAt: policy.SwapAtSocket}, ""},
	} {
		err := c.cfg.sameModes(&c.file)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v, %+v: %v, want %q", c.cfg, c.file, err, c.want)
		}
	}
}

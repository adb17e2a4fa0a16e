package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// differences returns the lines that are in only one of two texts, as "-line" and "+line", each lot
// of them after the line " line" before it.
func differences(native, under string) (lines []string) {
	a, b := strings.Split(native, "\n"), strings.Split(under, "\n")
	before := ""
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		before, a, b = a[0], a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	// common[i][j] is how many lines a[i:] and b[j:] have in common, in order.
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i, line := range slices.Backward(a) {
		for j, other := range slices.Backward(b) {
			if line == other {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	say := func(line string) {
		if before != "" {
			lines = append(lines, " "+before)
			before = ""
		}
		lines = append(lines, line)
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			before = a[i]
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			say("-" + a[i])
			i++
		default:
			say("+" + b[j])
			j++
		}
	}
	return lines
}

// sameOutput fails the test where a program said something else under upconv than natively.
func sameOutput(t *testing.T, native, under string) {
	t.Helper()
	if native == under {
		return
	}
	const most = 80
	lines := differences(native, under)
	if n := len(lines); n > most {
		lines = append(slices.Clip(lines[:most/2]), append([]string{fmt.Sprintf("... %d more lines ...", n-most)}, lines[n-most/2:]...)...)
	}
	t.Errorf("not as natively (- native, + upconv)\n%s", strings.Join(lines, "\n"))
}

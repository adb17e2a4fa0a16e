package integration

import "testing"

func TestCurl(t *testing.T) {
	l := newLab(t)
	addr := l.greet()
	curl := []string{needProgram(t, "curl"), "-sS", "--http0.9", "-m", "10", "http://" + addr + "/"}
	if code, out := status(t, l.plain(curl...)); code != 7 {
		t.Fatalf("without upconv: exit status %d, want 7 (could not connect)\n%s", code, out)
	}
	if got := output(t, l.under(curl...)); got != greeting {
		t.Errorf("got %q, want %q", got, greeting)
	}
}

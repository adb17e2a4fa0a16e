package upconv

import (
	"log/slog"
	"testing"
)

// testSession returns a session without a listener, for what needs none. Its node ends with the
// test.
func testSession(t testing.TB) *session {
	t.Helper()
	n, err := newNode(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return &session{node: n, crew: newCrew()}
}

package calls

import (
	"log/slog"
	"testing"

	"github.com/upconv/upconv/upconv/internal/guard"
	"github.com/upconv/upconv/upconv/internal/session"
)

// idleSession returns a session without a listener, whose node ends with the test.
func idleSession(t testing.TB) *guard.Session {
	t.Helper()
	n, err := session.NewNode(slog.New(slog.DiscardHandler), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s := &guard.Session{}
	s.Init(n, func() {})
	return s
}

// idleWorker returns a worker of a session.
func idleWorker(s *guard.Session) *Worker {
	w := &Worker{}
	w.Init(s, nil)
	return w
}

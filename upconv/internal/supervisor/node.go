package supervisor

import (
	"log/slog"
	"sync"

	"github.com/upconv/upconv/upconv/internal/session"
)

// Node is what one process has once, however many sessions there are in it.
type Node struct {
	*session.Node
	idle chan job // for threads of workers that have nothing to do

	mu       sync.Mutex
	sessions map[*Session]struct{} // that have not been closed
}

// NewNode returns a node without sessions. The error is that of session.NewNode.
func NewNode(log *slog.Logger) (*Node, error) {
	n := &Node{sessions: map[*Session]struct{}{}, idle: make(chan job)}
	var err error
	n.Node, err = session.NewNode(log, n.threadEnded)
	return n, err
}

// threadEnded has all sessions forget a thread.
func (n *Node) threadEnded(tid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.sessions {
		s.Epolls.Ended(tid)
	}
}

package swap

import (
	"slices"

	"github.com/upconv/upconv/upconv/internal/peek"
)

// lookBack looks once more at the socket old, which has just been taken from the target: other
// threads could use it until then. waited is whether it was seen to have no other reference, and
// has one now: a thread that waits for it keeps it alive. (To look for such threads takes long
// where there are many.) late are the places in epoll sets that it has got, besides those that are
// known.
func (w *Worker) lookBack(s *Swap) (waited bool, late []registration) {
	v := s.Call.View
	if v == nil || v.OwnTable {
		return false, nil
	}
	var sight peek.Sight
	if w.s.Sights.Load().Peeker.Look(w.s.PID, s.Old, &sight) != 0 {
		return v.Single(), nil
	}
	return v.Single() && sight.Refs != 1, w.latePlaces(s, &sight)
}

// latePlaces returns the places that the old socket of a swap has got between two looks, besides
// those that are known. sight is what the second one has shown.
func (w *Worker) latePlaces(s *Swap, sight *peek.Sight) (late []registration) {
	c, own := s.Call, 0
	if s.Last.Watched { // in a set of upconv's own
		own = 1
	}
	if w.showsPlaces(sight) {
		added := slices.DeleteFunc(slices.Clone(sight.Places()), func(p peek.Place) bool {
			return slices.ContainsFunc(c.View.Places(), func(q peek.Place) bool { return p.Set == q.Set && p.Number == q.Number })
		})
		if len(added) > own {
			late, _ = w.placesSeen(s, added, len(added)-own)
		}
		return late
	}
	if sight.Watched <= c.View.Watched+own && sight.Watched < peek.MaxWatched {
		return nil
	}
	w.forgetSets(c) // it may be in a set that is new
	late, _ = w.registrationsByInode(s, nil)
	return slices.DeleteFunc(late, func(r registration) bool {
		return slices.ContainsFunc(s.Places, func(known registration) bool { return known.epfd == r.epfd && known.number == r.number })
	})
}

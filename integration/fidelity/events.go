package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// swaps counts upconv's decisions: proof that something was swapped, and of how much was not.
type swaps struct {
	swapped int            // a socket of ours was put in the place of the program's
	udp     int            // of these, for datagrams: connects, and sends to somewhere new
	direct  int            // an IPv4 destination that was left alone; the identity policy has none
	failed  map[string]int // no socket, or one that could not connect, at once, by errno
	dropped int            // events that upconv did not write
}

func countSwaps(events string) (swaps, error) {
	s := swaps{failed: map[string]int{}}
	f, err := os.Open(events)
	if err != nil {
		return s, err
	}
	defer f.Close()
	for d := json.NewDecoder(f); ; {
		var e struct {
			Proto, Route, Local, Result string
			Dropped                     int
		}
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return s, nil
		case err != nil:
			return s, fmt.Errorf("%s: %w", events, err)
		case e.Dropped > 0:
			s.dropped += e.Dropped
		case e.Route == "direct":
			s.direct++
		case strings.HasPrefix(e.Route, "netns:") && e.Local != "":
			s.swapped++
			if e.Proto == "udp" {
				s.udp++ // the socket is a new one: see proof
			}
		default:
			s.failed[e.Result]++
		}
	}
}

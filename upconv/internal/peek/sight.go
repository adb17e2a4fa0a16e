package peek

import (
	"cmp"
	"fmt"
	"slices"
)

// sightProgram is the program of Look while it is written.
type sightProgram struct {
	*writer
	peeker *Peeker // is told where things are
}

// program writes the program for a kernel with these types.
func (p *Peeker) program(t *types) ([]byte, error) {
	w := &sightProgram{writer: beginProgram(t), peeker: p}
	w.readTable()
	w.readFile()
	w.readInode()
	// Only a socket has the rest; the caller sees by the mode whether it is one. Reading is
	// harmless if not.
	w.readSocket()
	for _, part := range []struct {
		at, size int
		fields   []field
	}{{ctxSig, MaxCommon, common}, {ctxStream, MaxStream, stream}, {ctxDatagram, MaxDatagram, datagram}} {
		if err := w.readSignature(part.at, part.size, part.fields); err != nil {
			return nil, err
		}
	}
	return w.end()
}

// readTable reads what the descriptor table of the task in r7 says of the descriptor, and leaves
// the table (struct fdtable) in r8 and the descriptor in r9.
func (w *sightProgram) readTable() {
	w.follow(r8, r7, w.at("task_struct", "files"), "done")
	w.readTo(ctxTable, 4, r8, w.at("files_struct", "count"))
	w.follow(r8, r8, w.at("files_struct", "fdt"), "done")
	w.readTo(ctxMax, 4, r8, w.at("fdtable", "max_fds"))
	w.load32(r9, r6, ctxFD)
	w.load32(r1, r10, slot(ctxMax))
	w.ifNotBelow(r9, r1, "done")
	// The word of close_on_exec, and the bit in it.
	w.follow(r2, r8, w.at("fdtable", "close_on_exec"), "done")
	w.move(r3, r9)
	w.shiftRight(r3, 6)
	w.shiftLeft(r3, 3)
	w.add(r3, r2)
	w.readTo(ctxWord, 8, r3, 0)
	w.load(r1, r10, slot(ctxWord))
	w.move(r2, r9)
	w.and(r2, 63)
	w.shiftRightBy(r1, r2)
	w.and(r1, 1)
	w.store(r10, r1, slot(ctxCloexec))
}

// readFile reads the file that the table in r8 has for the descriptor in r9, and leaves it in r8.
func (w *sightProgram) readFile() {
	w.follow(r1, r8, w.at("fdtable", "fd"), "done")
	w.shiftLeft(r9, 3)
	w.add(r1, r9)
	w.follow(r8, r1, 0, "done")
	w.store(r10, r8, slot(ctxFile))
	w.peeker.singleRef = 0 // FILE_REF_ONEREF
	refs := "f_ref"
	if !w.types.has("file", refs) {
		refs, w.peeker.singleRef = "f_count", 1 // before Linux 6.13
	}
	w.readTo(ctxRefs, 8, r8, w.at("file", refs))
	// Its places in epoll sets are a list: struct hlist_head, then struct hlist_node.
	w.peeker.places = knowsPlaces(w.types)
	w.follow(r9, r8, w.at("file", "f_ep"), "unwatched")
	for n := range MaxWatched {
		w.follow(r9, r9, 0, "unwatched")
		w.moveImm(r1, int32(n+1))
		w.store(r10, r1, slot(ctxEpoll))
		if w.peeker.places {
			w.readPlace(ctxPlaces+n*placeSize, r9)
		}
	}
	w.label("unwatched")
	w.readTo(ctxFlags, 4, r8, w.at("file", "f_flags"))
	owner := "f_owner" // a pointer since Linux 6.12
	if w.types.has("file", "f_owner.pid") {
		owner = "f_owner.pid"
	}
	w.readTo(ctxOwner, 8, r8, w.at("file", owner))
}

// readInode reads the inode of the file in r8.
func (w *sightProgram) readInode() {
	w.follow(r9, r8, w.at("file", "f_inode"), "done")
	w.readTo(ctxMode, 2, r9, w.at("inode", "i_mode"))
	w.readTo(ctxUID, 4, r9, w.at("inode", "i_uid"))
	w.readTo(ctxGID, 4, r9, w.at("inode", "i_gid"))
	w.readTo(ctxIno, 8, r9, w.at("inode", "i_ino"))
}

// readSocket reads the state and the namespace of the socket whose file is in r8, and leaves its
// struct sock in r8.
func (w *sightProgram) readSocket() {
	w.follow(r8, r8, w.at("file", "private_data"), "done")
	w.readTo(ctxSocket, 1, r8, w.at("socket", "state"))
	w.follow(r8, r8, w.at("socket", "sk"), "done")
	w.follow(r9, r8, w.at("sock", "__sk_common.skc_net.net"), "done")
	w.readTo(ctxCookie, 8, r9, w.at("net", "net_cookie"))
}

// readSignature reads fields of the struct sock in r8 into a part of the context that has room for
// limit bytes.
func (w *sightProgram) readSignature(context, limit int, fields []field) error {
	// In the order of the struct, so that what is next to each other can be read at once.
	type place struct {
		offset uint32
		field
	}
	var places []place
	for _, f := range fields {
		if !f.optional || w.types.has(f.of, f.path) {
			places = append(places, place{w.at(f.of, f.path), f})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.offset, b.offset) })
	length := 0
	for i := 0; i < len(places); {
		first, size := places[i], 0
		for ; i < len(places) && places[i].offset == first.offset+uint32(size); i++ {
			if length+size+places[i].size > limit {
				return fmt.Errorf("a signature of more than %d bytes", limit)
			}
			if places[i].keep != nil {
				*places[i].keep(w.peeker) = length + size
			}
			size += places[i].size
		}
		w.readTo(context+length, size, r8, first.offset)
		length += size
	}
	return nil
}

// placeFields are what is read of a place in an epoll set.
var placeFields = []struct{ of, path string }{
	{"epitem", "fllink"}, {"epitem", "ffd.file"}, {"epitem", "ffd.fd"}, {"epitem", "event"}, {"epitem", "ep"},
	{"epoll_event", "events"}, {"epoll_event", "data"}, {"eventpoll", "file"},
}

// knowsPlaces reports whether the kernel's types tell all that is read of a place in an epoll set.
func knowsPlaces(t *types) bool {
	return !slices.ContainsFunc(placeFields, func(f struct{ of, path string }) bool { return !t.has(f.of, f.path) })
}

// readPlace reads a place in an epoll set. node is a register with the address of its
// epitem.fllink.
func (w *sightProgram) readPlace(context int, node uint8) {
	link, event := w.at("epitem", "fllink"), w.at("epitem", "event")
	w.readTo(context+placeFile, 8, node, w.at("epitem", "ffd.file")-link)
	w.readTo(context+placeNumber, 4, node, w.at("epitem", "ffd.fd")-link)
	w.readTo(context+placeEvents, 4, node, event+w.at("epoll_event", "events")-link)
	w.readTo(context+placeData, 8, node, event+w.at("epoll_event", "data")-link)
	w.follow(r1, node, w.at("epitem", "ep")-link, "unwatched")
	w.readTo(context+placeSet, 8, r1, w.at("eventpoll", "file"))
}

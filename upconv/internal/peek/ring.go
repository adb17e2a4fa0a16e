package peek

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Told is one record: there was a signal.
type Told struct {
	Key   Key
	flags uint64 // of the thread that it was sent to
}

// ring is a BPF ring buffer of records: Documentation/bpf/ringbuf.rst.
type ring struct {
	fd   int
	file *os.File // for the Go runtime's poller; owns fd

	mu       sync.Mutex // held while the memory is used
	consumer []byte     // a page that begins with how far it has been read
	producer []byte     // one that begins with how far it has been written, and the data twice
}

// ringSize is that of the data. It has room for some 2,700 records.
const ringSize = 1 << 16

const (
	recordHeader = 8
	recordSize   = recordHeader + 16
	recordBusy   = 1 << 31 // BPF_RINGBUF_BUSY_BIT: it is being written
)

func newRing() (*ring, error) {
	fd, err := newMap(mapRing, 0, 0, ringSize, 0)
	if err != nil {
		return nil, err
	}
	page := os.Getpagesize()
	r := &ring{fd: fd}
	if err = unix.SetNonblock(fd, true); err == nil {
		r.consumer, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err == nil {
		r.producer, err = unix.Mmap(fd, int64(page), page+2*ringSize, unix.PROT_READ, unix.MAP_SHARED)
	}
	if err != nil {
		unix.Close(fd)
		r.unmap()
		return nil, err
	}
	r.file = os.NewFile(uintptr(fd), "ring")
	return r, nil
}

func (r *ring) close() {
	r.file.Close()
	r.unmap()
}

func (r *ring) unmap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, memory := range []*[]byte{&r.consumer, &r.producer} {
		if *memory != nil {
			unix.Munmap(*memory)
			*memory = nil
		}
	}
}

// wait appends what the records say, as soon as there is one.
func (r *ring) wait(told []Told) (all []Told, full bool, err error) {
	conn, err := r.file.SyscallConn()
	if err != nil {
		return told, false, err
	}
	before := len(told)
	err = conn.Read(func(uintptr) bool {
		told, full = r.drain(told)
		return len(told) > before || full
	})
	return told, full, err
}

// drain appends what the records say. full is whether there may have been no room for some.
func (r *ring) drain(told []Told) (all []Told, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.consumer == nil || r.producer == nil {
		return told, false
	}
	read, written := (*uint64)(unsafe.Pointer(&r.consumer[0])), (*uint64)(unsafe.Pointer(&r.producer[0]))
	data := r.producer[os.Getpagesize():]
	at := atomic.LoadUint64(read)
	for {
		end := atomic.LoadUint64(written)
		full = full || end-at > ringSize-2*recordSize
		from := at
		told, at = records(data, told, at, end)
		if at == from {
			return told, full
		}
		atomic.StoreUint64(read, at)
	}
}

// records appends the records from one place up to another, or up to the first that is being
// written. data is the buffer, twice: no record is torn.
func records(data []byte, told []Told, at, end uint64) ([]Told, uint64) {
	for ; at < end; at += recordSize {
		record := data[at%ringSize:][:recordSize]
		if atomic.LoadUint32((*uint32)(unsafe.Pointer(&record[0])))&recordBusy != 0 {
			break
		}
		order := binary.NativeEndian
		told = append(told, Told{Key(order.Uint32(record[recordHeader:])), order.Uint64(record[recordHeader+8:])})
	}
	return told, at
}

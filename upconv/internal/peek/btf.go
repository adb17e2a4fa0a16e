package peek

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel describes its own types in /sys/kernel/btf/vmlinux (BTF, Documentation/bpf/btf.rst).
// Of the hundred thousand in there only a dozen structs are wanted, once; so this reads over the
// file and keeps nothing.

// A library was tried in place of this, github.com/cilium/ebpf v0.22: it takes 20 ms to find these
// types, at best, and 5 MB until they are found. This takes 3 ms with loading the programs, and
// 0.7 MB; upconv run as a whole takes 12 ms.

const btfPath = "/sys/kernel/btf/vmlinux"

// kinds of struct btf_type.
const (
	kindInt = iota + 1
	kindPtr
	kindArray
	kindStruct
	kindUnion
	kindEnum
	kindFwd
	kindTypedef
	kindVolatile
	kindConst
	kindRestrict
	kindFunc
	kindFuncProto
	kindVar
	kindDatasec
	kindFloat
	kindDeclTag
	kindTypeTag
	kindEnum64
)

var errBTF = errors.New("malformed BTF")

// types is BTF, in the byte order of this machine.
type types struct {
	data    []byte // the type section
	strings []byte
	at      []uint32          // offset in data by type id, which counts from 1
	named   map[string]uint32 // ids of the structs and functions that were asked for
}

// withKernelTypes calls use with the kernel's types. structs and functions are the names that it
// will ask for. The memory they are in is given back afterwards: it is more than all else of the
// supervisor.
func withKernelTypes(names []string, use func(*types) error) error {
	fd, err := unix.Open(btfPath, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", btfPath, err)
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("%s: %w", btfPath, err)
	}
	if stat.Size <= 0 || stat.Size > 1<<28 {
		return fmt.Errorf("%s: %w: %d bytes", btfPath, errBTF, stat.Size)
	}
	// Since Linux 6.16 it can be mapped, before it must be read.
	length := int(stat.Size)
	memory, err := unix.Mmap(fd, 0, length, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		if memory, err = unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			return err
		}
		if length, err = readAll(fd, memory); err != nil {
			unix.Munmap(memory)
			return fmt.Errorf("%s: %w", btfPath, err)
		}
	}
	defer unix.Munmap(memory)
	unix.Madvise(memory, unix.MADV_DONTFORK) // a fork meanwhile need not copy it
	t, err := parseTypes(memory[:length], names)
	if err != nil {
		return fmt.Errorf("%s: %w", btfPath, err)
	}
	return use(t)
}

func readAll(fd int, into []byte) (length int, err error) {
	for length < len(into) {
		n, err := unix.Read(fd, into[length:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return length, err
		}
		length += n
	}
	return length, nil
}

// parseTypes finds the types in BTF. What it returns refers to data.
func parseTypes(data []byte, names []string) (*types, error) {
	const headerSize = 24
	order := binary.NativeEndian
	if len(data) < headerSize || order.Uint16(data) != 0xeb9f {
		return nil, errBTF
	}
	section := func(at int) ([]byte, bool) {
		start := uint64(order.Uint32(data[4:])) + uint64(order.Uint32(data[at:]))
		end := start + uint64(order.Uint32(data[at+4:]))
		if end > uint64(len(data)) {
			return nil, false
		}
		return data[start:end], true
	}
	t := &types{named: map[string]uint32{}}
	var ok, ok2 bool
	t.data, ok = section(8)
	t.strings, ok2 = section(16)
	if !ok || !ok2 {
		return nil, errBTF
	}
	var wanted [256][]string // by first letter: most names are none of these
	for _, name := range names {
		wanted[name[0]] = append(wanted[name[0]], name)
	}
	t.at = append(make([]uint32, 0, len(t.data)/24), 0)
	all := t.data
	for offset := 0; offset < len(all); {
		if offset+12 > len(all) {
			return nil, errBTF
		}
		info := order.Uint32(all[offset+4:])
		kind, vlen := int(info>>24&0x1f), int(info&0xffff)
		size := 12
		switch kind {
		case kindInt, kindVar, kindDeclTag:
			size += 4
		case kindArray:
			size += 12
		case kindStruct, kindUnion, kindDatasec, kindEnum64:
			size += 12 * vlen
		case kindEnum, kindFuncProto:
			size += 8 * vlen
		case kindPtr, kindFwd, kindTypedef, kindVolatile, kindConst, kindRestrict, kindFunc, kindFloat, kindTypeTag:
		default:
			return nil, fmt.Errorf("%w: kind %d", errBTF, kind)
		}
		if kind == kindFunc || kind == kindStruct && vlen > 0 {
			if at := order.Uint32(all[offset:]); int(at) < len(t.strings) {
				for _, name := range wanted[t.strings[at]] {
					end := int(at) + len(name)
					if end < len(t.strings) && t.strings[end] == 0 && string(t.strings[at:end]) == name && t.named[name] == 0 {
						t.named[name] = uint32(len(t.at))
					}
				}
			}
		}
		t.at = append(t.at, uint32(offset))
		offset += size
		if offset > len(all) {
			return nil, errBTF
		}
	}
	return t, nil
}

// word returns a 32-bit word of a type, counted from its beginning.
func (t *types) word(id uint32, i int) uint32 {
	return binary.NativeEndian.Uint32(t.data[int(t.at[id])+4*i:])
}

func (t *types) kind(id uint32) int { return int(t.word(id, 1) >> 24 & 0x1f) }
func (t *types) vlen(id uint32) int { return int(t.word(id, 1) & 0xffff) }

func (t *types) name(offset uint32) []byte {
	if int(offset) >= len(t.strings) {
		return nil
	}
	name, _, _ := bytes.Cut(t.strings[offset:], []byte{0})
	return name
}

// function returns the type id of a kernel function.
func (t *types) function(name string) (uint32, error) {
	if id := t.named[name]; id != 0 && t.kind(id) == kindFunc {
		return id, nil
	}
	return 0, fmt.Errorf("this kernel has no function %s", name)
}

// field returns the offset in bytes of a member of a struct. path is its name, or several with dots
// between. Of a bit field it is the byte that it begins in.
func (t *types) field(structName, path string) (offset uint32, err error) {
	id := t.named[structName]
	if id == 0 || t.kind(id) != kindStruct {
		return 0, fmt.Errorf("this kernel has no struct %s", structName)
	}
	bits := uint32(0)
	for _, name := range strings.Split(path, ".") {
		at, of, ok := t.member(id, name, 0)
		if !ok {
			return 0, fmt.Errorf("struct %s of this kernel has no %s", structName, path)
		}
		bits += at
		id = of
	}
	return bits / 8, nil
}

// member finds a member by name, also in members without one, and returns its offset in bits and
// its type.
func (t *types) member(id uint32, name string, depth int) (bits, of uint32, ok bool) {
	for range 16 { // through names and qualifiers of the type
		if id == 0 || int(id) >= len(t.at) {
			return 0, 0, false
		}
		switch t.kind(id) {
		case kindTypedef, kindVolatile, kindConst, kindRestrict, kindTypeTag:
			id = t.word(id, 2)
			continue
		}
		break
	}
	if kind := t.kind(id); kind != kindStruct && kind != kindUnion || depth > 8 {
		return 0, 0, false
	}
	bitfields := t.word(id, 1)>>31 != 0
	for i := range t.vlen(id) {
		memberName, memberType, at := t.word(id, 3+3*i), t.word(id, 4+3*i), t.word(id, 5+3*i)
		if bitfields {
			at &= 0xffffff
		}
		if text := t.name(memberName); len(text) > 0 {
			if string(text) == name {
				return at, memberType, true
			}
			continue
		}
		if inner, of, ok := t.member(memberType, name, depth+1); ok {
			return at + inner, of, true
		}
	}
	return 0, 0, false
}

// has reports whether a struct has a member.
func (t *types) has(structName, path string) bool {
	_, err := t.field(structName, path)
	return err == nil
}

func pointer(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

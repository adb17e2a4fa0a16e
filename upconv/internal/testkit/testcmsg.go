package testkit

import "encoding/binary"

// CmsgInt is the data of a control message that is an int.
func CmsgInt(v int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

package upconv

import (
	"bytes"
	"encoding/gob"
	"reflect"
	"testing"
)

// FuzzMessages has the front process and the supervisor talk: what they hear is what was said, and
// nonsense is an error.
func FuzzMessages(f *testing.F) {
	var sample bytes.Buffer
	gob.NewEncoder(&sample).Encode(report{Failed: "x", Status: 125})
	f.Add("/bin/\xff", "a=b", "no such file", 125, sample.Bytes())
	f.Fuzz(func(t *testing.T, path, variable, failed string, number int, raw []byte) {
		said := order{Config: Config{Args: []string{path, variable}, Events: path, Netns: variable}, Files: []string{path}, Denied: number&1 == 1, Front: number, Inherited: []int{number}}
		sameMessage(t, said, &order{})
		sameMessage(t, passed{Signal: number}, &passed{})
		sameMessage(t, report{Failed: failed, Status: number, Stopped: number}, &report{})
		for _, to := range []any{&order{}, &passed{}, &report{}} {
			gob.NewDecoder(bytes.NewReader(raw)).Decode(to) // must not panic
		}
	})
}

// sameMessage encodes a message and decodes it into heard, a pointer to an empty one.
func sameMessage[T any](t *testing.T, said T, heard *T) {
	t.Helper()
	var wire bytes.Buffer
	if err := gob.NewEncoder(&wire).Encode(said); err != nil {
		t.Fatal(err)
	}
	if err := gob.NewDecoder(&wire).Decode(heard); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(said, *heard) {
		t.Errorf("said %+v, heard %+v", said, *heard)
	}
}

package peek

// writer writes a program that looks at a task, and keeps the first thing that a kernel does not
// have.
type writer struct {
	*types
	*assembler
	failed error
}

// beginProgram writes the beginning of a program: r6 is the context, and r7 the task of the thread
// that it names. "done" is where a program that cannot go on jumps to.
func beginProgram(t *types) *writer {
	w := &writer{types: t, assembler: &assembler{labels: map[string]int{}, jumps: map[int]string{}}}
	fromPID := w.function("bpf_task_from_vpid")
	w.move(r6, r1)
	w.clear()
	w.load32(r1, r6, ctxTID)
	w.callKernel(fromPID)
	w.ifZero(r0, "gone")
	w.move(r7, r0)
	return w
}

// end writes the end of the program, which gives what it has read to the context, and returns the
// program.
func (w *writer) end() ([]byte, error) {
	release := w.function("bpf_task_release")
	w.label("done")
	w.move(r1, r7)
	w.callKernel(release)
	w.label("gone")
	w.give(r6, ctxFile)
	w.moveImm(r0, 0)
	w.exit()
	if w.failed != nil {
		return nil, w.failed
	}
	return w.bytes()
}

// at returns where a field is in its struct.
func (w *writer) at(of, path string) uint32 {
	offset, err := w.types.field(of, path)
	if err != nil && w.failed == nil {
		w.failed = err
	}
	return offset
}

// function returns the type id of a kernel function.
func (w *writer) function(name string) uint32 {
	id, err := w.types.function(name)
	if err != nil && w.failed == nil {
		w.failed = err
	}
	return id
}

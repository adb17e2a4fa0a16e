// Package supervisor answers stopped calls: a session's threads receive them from its listener,
// decide what becomes of each by the policy, put equivalent sockets under the programs'
// descriptors, and answer.
//
// A process has one [Node], and a [Session] for each listener. What the filter of a listener is to
// be follows from a [Plan].
package supervisor

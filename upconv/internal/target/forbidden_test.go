package target

import (
	"fmt"
	"strings"
	"testing"
)

func TestWhyForbidden(t *testing.T) {
	same := []int{1000, 1000, 1000}
	for _, c := range []struct {
		name       string
		uids, gids []int
		owner      int
		why, cure  string
	}{
		{"another user", []int{33, 33, 33}, same, 33, "it runs as another user (33) than upconv (1000)", cureUser},
		{"a set-user-ID program", []int{1000, 0, 0}, same, 0, "it runs as another user (0) than upconv (1000)", cureUser},
		{"another group", same, []int{33, 33, 33}, 1000, "it runs as another group (33) than upconv (1000)", cureUser},
		{"not to be dumped", same, same, 0, "it may not be dumped", cureDump},
		{"something else", same, same, 1000, "it has capabilities that upconv has not", cureElse},
	} {
		t.Run(c.name, func(t *testing.T) {
			why, cure := forbiddenBy(c.uids, c.gids, 1000, 1000, c.owner)
			if !strings.HasPrefix(why, c.why) || cure != c.cure {
				t.Errorf("got %q, %q", why, cure)
			}
		})
	}
	const status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"
	if uids, gids := fmt.Sprint(statusIDs([]byte(status), "Uid:")), fmt.Sprint(statusIDs([]byte(status), "Gid:")); uids != "[1 2 3]" || gids != "[5 6 7]" {
		t.Errorf("%s %s", uids, gids)
	}
}

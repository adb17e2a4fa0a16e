package policy

import (
	"fmt"
	"slices"
)

// hidden notes rules, and destinations and ports of rules, that never apply.
func (p *fileParser) hidden() {
	rules := p.file.Rules
	isHidden := make([]bool, len(rules))
	found := hiddenIn(rules)
	for _, i := range found {
		isHidden[i] = true
	}
	told := 0
	for k := range p.items {
		item := &p.items[k]
		width := max(1, len(item.ports))
		all := func(tos, ports []int) bool {
			for _, t := range tos {
				for _, q := range ports {
					if !isHidden[item.first+t*width+q] {
						return false
					}
				}
			}
			return true
		}
		tell := func(tos, ports []int, t fileText, what string) {
			told++
			by := "the rules before it together already take"
			if told <= 100 { // finding them takes long
				by = p.hiders(item, tos, ports, width)
			}
			if t.node == nil {
				p.failAt(item.node, "%s never applies: %s all of it; move it up, or remove it", what, by)
			} else {
				p.failIn(t, 0, len(t.text), "%s never applies here: %s all of it; move this rule up, or remove it", what, by)
			}
		}
		everyTo, everyPort := upTo(len(item.to)), upTo(width)
		if all(everyTo, everyPort) {
			tell(everyTo, everyPort, fileText{}, "this rule")
			continue
		}
		for t := range item.to {
			if all([]int{t}, everyPort) {
				tell([]int{t}, everyPort, item.to[t], item.to[t].text)
			}
		}
		for q := range item.ports {
			if all(everyTo, []int{q}) {
				tell(everyTo, []int{q}, item.ports[q], "port "+item.ports[q].text)
			}
		}
	}
}

// hiders says which rules hide some of those of an item.
func (p *fileParser) hiders(item *fileItem, tos, ports []int, width int) string {
	rules := p.file.Rules
	lines := map[int]bool{}
	for _, t := range tos {
		for _, q := range ports {
			i := item.first + t*width + q
			by := slices.IndexFunc(rules[:i], func(r Rule) bool { return r.hides(&rules[i]) })
			if by < 0 || len(lines) > 3 {
				return "the rules before it together already take"
			}
			lines[rules[by].From.Line] = true
		}
	}
	var list []int
	for line := range lines {
		list = append(list, line)
	}
	slices.Sort(list)
	switch {
	case len(list) == 1 && list[0] == item.node.Line:
		return "the same rule already takes"
	case len(list) == 1:
		return fmt.Sprintf("the rule on line %d already takes", list[0])
	}
	text := fmt.Sprint("the rules on lines ", list[0])
	for i, line := range list[1:] {
		separator := ", "
		if i == len(list)-2 {
			separator = " and "
		}
		text += fmt.Sprint(separator, line)
	}
	return text + " already take"
}

// upTo returns 0 to n-1.
func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

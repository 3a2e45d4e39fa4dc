package diag

// Nearest is the candidate closest to s, for "did you mean"; empty when none is close (more than a third of
// its letters away).
func Nearest(s string, candidates []string) string {
	best, at := "", max(2, len(s)/3)+1
	for _, c := range candidates {
		if d := distance(s, c); d < at {
			best, at = c, d
		}
	}
	return best
}

// distance is the edit distance of Levenshtein.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left, diagonal := i+1, row[0]
		row[0] = left
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, left+1)
			left = row[j+1]
		}
	}
	return row[len(b)]
}

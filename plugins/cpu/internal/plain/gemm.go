package plain

// The matrix product behind convolutions: tile[m][j] = Σ_k a[m][k]·b[k][j] for a
// block of columns j. A caller gathers b for one block of k at a time.
const (
	blockK = 256 // terms of one chain; the blocks' sums are then added in order
	blockN = 128 // columns of one task
)

// accumulate adds a block's product to the tile [M, n]. Row m of a starts at
// m·lda; row k of b, n columns wide, at k·n. rows is scratch for 2n elements.
func accumulate[T float](tile, a, b, rows []T, m, n, k, lda int) {
	for i := 0; i < m; i += 2 {
		if i+1 == m {
			c := rows[:n]
			clear(c)
			row1(c, a[i*lda:][:k], b)
			add(tile[i*n:][:n], c)
			break
		}
		c, d := rows[:n], rows[n:2*n]
		clear(rows[:2*n])
		row2(c, d, a[i*lda:][:k], a[(i+1)*lda:][:k], b)
		add(tile[i*n:][:n], c)
		add(tile[(i+1)*n:][:n], d)
	}
}

// row2 adds to c and d the products of two rows of a with b, four terms at a
// time: with the loads of b shared by both rows this keeps the scalar units
// busier than any blocking over more rows.
func row2[T float](c, d, a0, a1, b []T) {
	n := len(c)
	d = d[:n]
	k := 0
	for ; k+4 <= len(a0); k += 4 {
		p, q := (*[4]T)(a0[k:]), (*[4]T)(a1[k:])
		p0, p1, p2, p3 := p[0], p[1], p[2], p[3]
		q0, q1, q2, q3 := q[0], q[1], q[2], q[3]
		b0, b1, b2, b3 := b[k*n:][:n], b[(k+1)*n:][:n], b[(k+2)*n:][:n], b[(k+3)*n:][:n]
		for j := range c {
			s, t := c[j], d[j]
			v := b0[j]
			s += T(p0 * v)
			t += T(q0 * v)
			v = b1[j]
			s += T(p1 * v)
			t += T(q1 * v)
			v = b2[j]
			s += T(p2 * v)
			t += T(q2 * v)
			v = b3[j]
			s += T(p3 * v)
			t += T(q3 * v)
			c[j], d[j] = s, t
		}
	}
	row1(c, a0[k:], b[k*n:])
	row1(d, a1[k:], b[k*n:])
}

// row1 adds to c the product of one row of a with b.
func row1[T float](c, a, b []T) {
	n := len(c)
	for k, p := range a {
		r := b[k*n:][:n]
		for j := range c {
			c[j] += T(p * r[j])
		}
	}
}

func add[T float](dst, src []T) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] += src[i]
	}
}

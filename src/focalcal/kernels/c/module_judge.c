/* judge and map_rows for Python: arrays in, arrays filled. */
#include "arguments.h"

enum { SCORES, CODES, WEIGHT, EDGES, SUMS, TOP, CLASSWISE, SIGNED, VIEWS };

/* Five sums a bin, or three where every row weighs 1, one after the other in `view`. */
static struct bin_sums bins_of(const Py_buffer *view, int weighted) {
    ptrdiff_t step = view->len / view->itemsize / view->shape[0];
    double *at = view->buf;
    return (struct bin_sums){
        .count = at,
        .confidence = at + step,
        .hit = at + 2 * step,
        .weight = weighted ? at + 3 * step : NULL,
        .weight2 = weighted ? at + 4 * step : NULL,
    };
}

/* Whether the arrays have the shapes that the loops rely on. */
static int shapes_fit(const Py_buffer *views, const struct scores *s) {
    const Py_buffer *v = views;
    ptrdiff_t bins = v[EDGES].shape[0] - 1, fields = v[WEIGHT].obj ? 5 : 3;
    int fit = bins >= 1 && v[CODES].shape[0] == s->n && v[SUMS].shape[0] == TOTALS;
    if (v[WEIGHT].obj) fit &= v[WEIGHT].shape[0] == s->n;
    fit &= v[TOP].shape[0] == fields && v[TOP].shape[1] == bins;
    if (v[CLASSWISE].obj) {
        const Py_ssize_t *shape = v[CLASSWISE].shape;
        fit &= shape[0] == fields && shape[1] == s->n_classes && shape[2] == bins;
    }
    if (v[SIGNED].obj) fit &= v[SIGNED].shape[0] == s->n;
    return fit;
}

/* 1 if the scores are fine, 0 if not, -1 with an exception. */
static int finished(int status) {
    if (status == DONE) return 1;
    if (status == INVALID) return 0;
    if (status == NO_MEMORY) PyErr_NoMemory();
    else PyErr_SetString(PyExc_ValueError, "Expected codes that are numbers of columns.");
    return -1;
}

/* Fill views and `to` from Python's objects; -1 with an exception. */
static int get_judging(PyObject *const *o, Py_buffer *v, const struct scores *s, struct judging *to) {
    char kind[] = {s->is_double ? 'd' : 'f', 0};
    if (!get_array(o[CODES], &v[CODES], "codes", "q", 1, CONTIGUOUS)) return -1;
    if (o[WEIGHT] != Py_None && !get_array(o[WEIGHT], &v[WEIGHT], "weight", "d", 1, CONTIGUOUS)) return -1;
    if (!get_array(o[EDGES], &v[EDGES], "edges", "d", 1, CONTIGUOUS)) return -1;
    if (!get_array(o[SUMS], &v[SUMS], "totals", "d", 1, WRITABLE)) return -1;
    if (!get_array(o[TOP], &v[TOP], "top", "d", 2, WRITABLE)) return -1;
    to->with_classes = o[CLASSWISE] != Py_None;
    if (to->with_classes && !get_array(o[CLASSWISE], &v[CLASSWISE], "classwise", "d", 3, WRITABLE)) return -1;
    if (o[SIGNED] != Py_None && !get_array(o[SIGNED], &v[SIGNED], "signed", kind, 1, WRITABLE)) return -1;
    if (!shapes_fit(v, s)) {
        PyErr_SetString(PyExc_ValueError, "Expected arrays whose shapes fit the scores and the bins.");
        return -1;
    }
    to->codes = v[CODES].buf;
    to->weight = v[WEIGHT].buf;
    to->edges = v[EDGES].buf;
    to->bins = v[EDGES].shape[0] - 1;
    to->totals = v[SUMS].buf;
    to->top = bins_of(&v[TOP], to->weight != NULL);
    if (to->with_classes) to->classwise = bins_of(&v[CLASSWISE], to->weight != NULL);
    to->signed_confidence = v[SIGNED].buf;
    return 0;
}

PyObject *judge(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *o[VIEWS];
    Py_buffer v[VIEWS] = {{0}};
    struct scores s;
    struct judging to = {0};
    int is_probs, fine = -1;
    if (!PyArg_ParseTuple(args, "OOOpdOOOOO", &o[SCORES], &o[CODES], &o[WEIGHT], &is_probs, &to.tolerance,
                          &o[EDGES], &o[SUMS], &o[TOP], &o[CLASSWISE], &o[SIGNED]))
        return NULL;
    if (get_scores(o[SCORES], &v[SCORES], is_probs, &s) == 0 && get_judging(o, v, &s, &to) == 0) {
        const struct loops *loops = loops_in_use;
        int status;
        Py_BEGIN_ALLOW_THREADS
        status = in_double(&s) ? loops->judge_d(&s, &to) : loops->judge_f(&s, &to);
        Py_END_ALLOW_THREADS
        fine = finished(status);
    }
    for (int i = 0; i < VIEWS; i++)
        if (v[i].obj) PyBuffer_Release(&v[i]);
    return fine < 0 ? NULL : PyBool_FromLong(fine);
}

PyObject *map_rows(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *from, *to;
    Py_buffer in = {0}, out = {0};
    struct scores s;
    struct mapping map = {0};
    int is_probs, status, fine = -1;
    if (!PyArg_ParseTuple(args, "OpdddpO", &from, &is_probs, &map.tolerance, &map.temperature, &map.gamma,
                          &map.exponentiate, &to))
        return NULL;
    if (get_scores(from, &in, is_probs, &s) < 0) return NULL;
    char kind[] = {s.is_double ? 'd' : 'f', 0};
    if (!get_array(to, &out, "out", kind, 2, WRITABLE)) goto done;
    if (out.shape[0] != s.n || out.shape[1] != s.n_classes) {
        PyErr_SetString(PyExc_ValueError, "Expected out of shape (n, K).");
        goto done;
    }
    map.out = out.buf;
    const struct loops *loops = loops_in_use;
    Py_BEGIN_ALLOW_THREADS
    status = in_double(&s) ? loops->map_rows_d(&s, &map) : loops->map_rows_f(&s, &map);
    Py_END_ALLOW_THREADS
    fine = finished(status);
done:
    PyBuffer_Release(&in);
    if (out.obj) PyBuffer_Release(&out);
    return fine < 0 ? NULL : PyBool_FromLong(fine);
}

/* Training losses and the inverse map for Python. Arrays are given as addresses, because asking a torch tensor for a
 * NumPy view takes longer than a small batch's loss; focalcal/nn/_compiled.py checks what it passes. */
#include "arguments.h"

static PyObject *run(PyObject *args, int backward) {
    struct training l = {0};
    int is_double, status;
    unsigned long long logits, labels, weight, edges, steps, kept, total, out, upstream;
    if (!PyArg_ParseTuple(args, "pnniidnKKKLKKKKKKn", &is_double, &l.n, &l.n_classes, &l.kind, &l.reduction, &l.gamma,
                          &l.edge_count, &logits, &labels, &weight, &l.ignore_index, &edges, &steps, &kept, &total,
                          &out, &upstream, &l.upstream_step))
        return NULL;
    l.logits = (const void *)(uintptr_t)logits;
    l.labels = (const int64_t *)(uintptr_t)labels;
    l.weight = (const void *)(uintptr_t)weight;
    l.edges = (const double *)(uintptr_t)edges;
    l.steps = (const double *)(uintptr_t)steps;
    l.kept = (struct kept_row *)(uintptr_t)kept;
    l.total = (double *)(uintptr_t)total;
    l.out = (void *)(uintptr_t)out;
    l.upstream = (const void *)(uintptr_t)upstream;
    Py_BEGIN_ALLOW_THREADS
    if (backward)
        status = is_double ? loops_in_use->loss_backward_d(&l) : loops_in_use->loss_backward_f(&l);
    else
        status = is_double ? loops_in_use->loss_forward_d(&l) : loops_in_use->loss_forward_f(&l);
    Py_END_ALLOW_THREADS
    if (status == NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(status == DONE);
}

PyObject *loss_forward(PyObject *module, PyObject *args) {
    (void)module;
    return run(args, 0);
}

PyObject *loss_backward(PyObject *module, PyObject *args) {
    (void)module;
    return run(args, 1);
}

static PyObject *run_inverse(PyObject *args, inverse_function *in_double, inverse_function *in_float) {
    struct inversion l = {0};
    int is_double, status;
    unsigned long long rows, upstream, out;
    if (!PyArg_ParseTuple(args, "pnndKKK", &is_double, &l.n, &l.n_classes, &l.gamma, &rows, &upstream, &out))
        return NULL;
    l.rows = (const void *)(uintptr_t)rows;
    l.upstream = (const void *)(uintptr_t)upstream;
    l.out = (void *)(uintptr_t)out;
    Py_BEGIN_ALLOW_THREADS
    status = is_double ? in_double(&l) : in_float(&l);
    Py_END_ALLOW_THREADS
    if (status == NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(status == DONE);
}

PyObject *inverse_rows(PyObject *module, PyObject *args) {
    (void)module;
    return run_inverse(args, loops_in_use->inverse_rows_d, loops_in_use->inverse_rows_f);
}

PyObject *inverse_pull(PyObject *module, PyObject *args) {
    (void)module;
    return run_inverse(args, loops_in_use->inverse_pull_d, loops_in_use->inverse_pull_f);
}

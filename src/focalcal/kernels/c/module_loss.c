/* loss_forward and loss_backward for Python. Arrays are given as addresses, because asking a torch tensor for a
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

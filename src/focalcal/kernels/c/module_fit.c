/* fit_sums and survey for Python: (scores, codes, weight, is_probs, …, out), all sums into out. */
#include "arguments.h"

struct call {
    Py_buffer views[4]; /* scores, codes, weight, out */
    struct scores scores;
};

static void release(struct call *call) {
    for (int i = 0; i < 4; i++)
        if (call->views[i].obj) PyBuffer_Release(&call->views[i]);
}

/* -1 with an exception, and nothing to release. */
static int take(struct call *call, PyObject **objects, int is_probs, ptrdiff_t sums) {
    Py_buffer *views = call->views;
    if (get_scores(objects[0], &views[0], is_probs, &call->scores) < 0) return -1;
    if (!get_array(objects[1], &views[1], "codes", "q", 1, 0)) goto failed;
    if (objects[2] != Py_None && !get_array(objects[2], &views[2], "weight", "d", 1, 0)) goto failed;
    if (!get_array(objects[3], &views[3], "out", "d", 1, 1)) goto failed;
    for (int i = 1; i < 3; i++) {
        if (!views[i].obj || (views[i].shape[0] == call->scores.n && views[i].strides[0] == 8)) continue;
        PyErr_SetString(PyExc_ValueError, "Expected contiguous codes and weight with one entry a row.");
        goto failed;
    }
    if (views[3].shape[0] == sums) return 0;
    PyErr_Format(PyExc_ValueError, "Expected out to take %zd sums.", sums);
failed:
    release(call);
    return -1;
}

static PyObject *result_of(struct call *call, int status) {
    release(call);
    if (status == -2) return PyErr_NoMemory();
    if (status == 0) Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "Expected codes that are numbers of columns.");
    return NULL;
}

PyObject *fit_sums(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *objects[4];
    struct call call = {0};
    int is_probs, status;
    double log_temperature, gamma;
    if (!PyArg_ParseTuple(args, "OOOpddO", &objects[0], &objects[1], &objects[2], &is_probs, &log_temperature, &gamma,
                          &objects[3]) ||
        take(&call, objects, is_probs, FIT_SUMS) < 0)
        return NULL;
    fit_function *fit = call.scores.is_double ? loops_in_use->fit_sums_d : loops_in_use->fit_sums_f;
    Py_BEGIN_ALLOW_THREADS
    status = fit(&call.scores, call.views[1].buf, call.views[2].buf, log_temperature, gamma, call.views[3].buf);
    Py_END_ALLOW_THREADS
    return result_of(&call, status);
}

PyObject *survey(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *objects[4];
    struct call call = {0};
    int is_probs, status;
    if (!PyArg_ParseTuple(args, "OOOpO", &objects[0], &objects[1], &objects[2], &is_probs, &objects[3]) ||
        take(&call, objects, is_probs, 4) < 0)
        return NULL;
    survey_function *look = call.scores.is_double ? loops_in_use->survey_d : loops_in_use->survey_f;
    Py_BEGIN_ALLOW_THREADS
    status = look(&call.scores, call.views[1].buf, call.views[2].buf, call.views[3].buf);
    Py_END_ALLOW_THREADS
    return result_of(&call, status);
}

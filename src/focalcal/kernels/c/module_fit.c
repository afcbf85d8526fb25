/* fit_sums for Python. */
#include "arguments.h"

PyObject *fit_sums(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *objects[4], *result = NULL;
    Py_buffer views[4] = {{0}};
    struct scores scores;
    int is_probs, status = 0;
    double log_temperature, gamma;
    if (!PyArg_ParseTuple(args, "OOOpddO", &objects[0], &objects[1], &objects[2], &is_probs, &log_temperature, &gamma,
                          &objects[3]))
        return NULL;
    if (get_scores(objects[0], &views[0], is_probs, &scores) < 0) return NULL;
    if (!get_array(objects[1], &views[1], "codes", "q", 1, 0)) goto done;
    if (objects[2] != Py_None && !get_array(objects[2], &views[2], "weight", "d", 1, 0)) goto done;
    if (!get_array(objects[3], &views[3], "out", "d", 1, 1)) goto done;
    if (views[1].shape[0] != scores.n || (views[2].obj && views[2].shape[0] != scores.n) ||
        views[1].strides[0] != 8 || (views[2].obj && views[2].strides[0] != 8) || views[3].shape[0] != FIT_SUMS) {
        PyErr_SetString(PyExc_ValueError, "Expected contiguous codes and weight, one a row, and out of FIT_SUMS.");
        goto done;
    }
    fit_function *fit = scores.is_double ? loops_in_use->fit_sums_d : loops_in_use->fit_sums_f;
    Py_BEGIN_ALLOW_THREADS
    status = fit(&scores, views[1].buf, views[2].obj ? views[2].buf : NULL, log_temperature, gamma, views[3].buf);
    Py_END_ALLOW_THREADS
    if (status == -2)
        PyErr_NoMemory();
    else if (status < 0)
        PyErr_SetString(PyExc_ValueError, "Expected codes that are numbers of columns.");
    else
        result = Py_NewRef(Py_None);
done:
    for (int i = 0; i < 4; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    return result;
}

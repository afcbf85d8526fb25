/* Python objects to plain C: arrays come through the buffer protocol, so that no NumPy header is needed. */
#ifndef FOCALCAL_ARGUMENTS_H
#define FOCALCAL_ARGUMENTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "loops.h"

/* How an array will be used: one that is written to must be contiguous too. */
enum access { STRIDED, WRITABLE, CONTIGUOUS };

/* Fill `view` with an array of `ndim` axes (or, for 0, one or two) whose items are of one of the kinds in
 * `formats`: 'd' float64, 'f' float32, 'q' int64. Return its kind; 0 with an exception. */
char get_array(PyObject *object, Py_buffer *view, const char *name, const char *formats, int ndim,
               enum access access);

/* Fill `scores` from an array of float32 or float64 with one or two axes; -1 with an exception. Release
 * `view` when the loops are done. */
int get_scores(PyObject *object, Py_buffer *view, int is_probs, struct scores *scores);

/* The loops in use: those of the best level of this processor, unless set_level chose others. */
extern const struct loops *loops_in_use;

PyObject *fit_sums(PyObject *module, PyObject *args);
PyObject *survey(PyObject *module, PyObject *args);
PyObject *judge(PyObject *module, PyObject *args);
PyObject *map_rows(PyObject *module, PyObject *args);
PyObject *loss_forward(PyObject *module, PyObject *args);
PyObject *inverse_rows(PyObject *module, PyObject *args);
PyObject *inverse_pull(PyObject *module, PyObject *args);
PyObject *loss_backward(PyObject *module, PyObject *args);

#endif

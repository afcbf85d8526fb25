#include "arguments.h"

/* One letter for an item's type, whatever the platform calls it; 0 for any other. */
static char kind_of(const Py_buffer *view) {
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=') format++;
    if (format[0] == 0 || format[1] != 0) return 0;
    if (*format == 'd' && view->itemsize == 8) return 'd';
    if (*format == 'f' && view->itemsize == 4) return 'f';
    if (strchr("lqn", *format) && view->itemsize == 8) return 'q';
    return 0;
}

char get_array(PyObject *object, Py_buffer *view, const char *name, const char *formats, int ndim,
               enum access access) {
    int flags = PyBUF_FORMAT | (access == STRIDED ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS);
    if (access == WRITABLE) flags |= PyBUF_WRITABLE;
    if (PyObject_GetBuffer(object, view, flags) < 0) return 0;
    char kind = kind_of(view);
    if (!kind || !strchr(formats, kind) || (ndim ? view->ndim != ndim : view->ndim < 1 || view->ndim > 2)) {
        PyErr_Format(PyExc_TypeError, "Expected %s with %d axes of the types '%s', got %d axes of '%s'.", name,
                     ndim, formats, view->ndim, view->format ? view->format : "B");
        PyBuffer_Release(view);
        return 0;
    }
    int fits = (uintptr_t)view->buf % (size_t)view->itemsize == 0;
    for (int axis = 0; axis < view->ndim; axis++) 
        fits &= view->shape[axis] < 2 || view->strides[axis] % view->itemsize == 0;
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "Expected %s aligned, with strides of whole items.", name);
        PyBuffer_Release(view);
        return 0;
    }
    return kind;
}

int get_scores(PyObject *object, Py_buffer *view, int is_probs, struct scores *scores) {
    char kind = get_array(object, view, "scores", "df", 0, STRIDED);
    if (!kind) return -1;
    int single = view->ndim == 1;
    *scores = (struct scores){
        .data = view->buf,
        .n = view->shape[0],
        .n_classes = single ? 2 : view->shape[1],
        .row_step = view->strides[0] / view->itemsize,
        .class_step = single ? 0 : view->strides[1] / view->itemsize,
        .is_double = kind == 'd',
        .is_single = single,
        .is_probs = is_probs,
    };
    return 0;
}

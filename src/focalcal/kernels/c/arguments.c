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
               int writable) {
    int flags = PyBUF_FORMAT | (writable ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_STRIDES);
    if (PyObject_GetBuffer(object, view, flags) < 0) return 0;
    char kind = kind_of(view);
    if (!kind || !strchr(formats, kind) || view->ndim != ndim) {
        PyErr_Format(PyExc_TypeError, "Expected %s with %d axes of one of the types '%s', got %d axes of '%s'.",
                     name, ndim, formats, view->ndim, view->format ? view->format : "B");
        PyBuffer_Release(view);
        return 0;
    }
    int fits = (uintptr_t)view->buf % (size_t)view->itemsize == 0;
    for (int axis = 0; axis < ndim; axis++) fits &= view->strides[axis] % view->itemsize == 0;
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "Expected %s aligned, with strides of whole items.", name);
        PyBuffer_Release(view);
        return 0;
    }
    return kind;
}

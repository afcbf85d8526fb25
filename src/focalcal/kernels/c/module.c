/* The module focalcal.kernels._rows: its functions, and the choice of vector instructions. */
#include "arguments.h"

const struct loops *loops_in_use = &loops_baseline;

static const struct loops *const LEVELS[] = {
    &loops_baseline,
#if defined(__x86_64__)
    &loops_avx2,
    &loops_avx512,
#endif
};
enum { LEVEL_COUNT = sizeof LEVELS / sizeof *LEVELS };

static int can_run(const struct loops *loops) {
    if (loops == &loops_baseline) return 1;
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (loops == &loops_avx2) return avx2;
#if defined(FOCALCAL_EMULATE_AVX512)
    return avx2;
#else
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#endif
#endif
    return 0;
}

static PyObject *levels(PyObject *module, PyObject *args) {
    (void)module, (void)args;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < LEVEL_COUNT; i++) {
        if (!can_run(LEVELS[i])) continue;
        PyObject *name = PyUnicode_FromString(LEVELS[i]->name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *level(PyObject *module, PyObject *args) {
    (void)module, (void)args;
    return PyUnicode_FromString(loops_in_use->name);
}

static PyObject *set_level(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name)) return NULL;
    for (int i = 0; i < LEVEL_COUNT; i++) {
        if (strcmp(LEVELS[i]->name, name) == 0 && can_run(LEVELS[i])) {
            loops_in_use = LEVELS[i];
            Py_RETURN_NONE;
        }
    }
    PyErr_Format(PyExc_ValueError, "Expected a level that this processor has, got '%s'. See levels().", name);
    return NULL;
}

static PyObject *elementary(PyObject *module, PyObject *args) {
    (void)module;
    int which;
    PyObject *from, *to;
    Py_buffer in, out;
    if (!PyArg_ParseTuple(args, "iOO", &which, &from, &to)) return NULL;
    char kind = get_array(from, &in, "in", "df", 1, CONTIGUOUS);
    if (!kind) return NULL;
    char both[] = {kind, 0};
    if (!get_array(to, &out, "out", both, 1, WRITABLE)) {
        PyBuffer_Release(&in);
        return NULL;
    }
    int status = -1;
    if (in.len == out.len)
        status = kind == 'd' ? loops_in_use->elementary_d(which, in.buf, out.buf, in.shape[0])
                             : loops_in_use->elementary_f(which, in.buf, out.buf, in.shape[0]);
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    if (status < 0) {
        PyErr_SetString(PyExc_ValueError, "Expected a function's number and two arrays of one length.");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"levels", levels, METH_NOARGS, "Names of the levels of vector instructions this processor can run."},
    {"level", level, METH_NOARGS, "Name of the level in use."},
    {"set_level", set_level, METH_VARARGS, "Use another level."},
    {"judge", judge, METH_VARARGS, "Sum what metrics need over rows; False for scores that are not valid."},
    {"map_rows", map_rows, METH_VARARGS, "Map rows to calibrated log-probabilities; False as for judge."},
    {"fit_sums", fit_sums, METH_VARARGS, "Sum losses and their derivatives in (log T, gamma) over rows."},
    {"survey", survey, METH_VARARGS, "Sum what a fit looks at first."},
    {"loss_forward", loss_forward, METH_VARARGS, "Sum a training loss over rows; False for logits left to torch."},
    {"loss_backward", loss_backward, METH_VARARGS, "Write its gradient in the logits."},
    {"inverse_rows", inverse_rows, METH_VARARGS, "Invert the focal calibration map; False for rows left to torch."},
    {"inverse_pull", inverse_pull, METH_VARARGS, "Write its gradient in the logits."},
    {"elementary", elementary, METH_VARARGS, "Apply exp, exp_low, log, log1p or log_half (0 to 4); for tests."},
    {NULL, NULL, 0, NULL},
};

static int choose_level(PyObject *module) {
    (void)module;
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (int i = 0; i < LEVEL_COUNT; i++) {
#if defined(__x86_64__)
        /* its lanes are tested, but no processor that has it has run it yet: only if asked for */
        if (LEVELS[i] == &loops_avx512) continue;
#endif
        if (can_run(LEVELS[i])) loops_in_use = LEVELS[i];
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)choose_level}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "focalcal.kernels._rows",
    .m_doc = "The hot row loops, compiled. focalcal.kernels.reference says what they compute.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__rows(void) { return PyModuleDef_Init(&definition); }

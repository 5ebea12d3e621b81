// The signature of a call: bytes that two calls share where they differ in nothing but the values of their tensors and
// the places where these lie. vsad/ops/common/launches.py finds by it how such a call was launched before.
#pragma once
#include <string>

#include "common/bind.h"

namespace vsad {

class Signature {
  public:
    // `tensor` and `parameter` are torch's classes; `exchange` is DLPack's, which torch.Tensor offers.
    Signature(py::type tensor, py::type parameter, const py::capsule& exchange)
        : tensor_(tensor), parameter_(parameter) {
        const auto* const found =
            static_cast<dlpack::Exchange*>(PyCapsule_GetPointer(exchange.ptr(), dlpack::kCapsule));
        if (!found) throw py::error_already_set();
        if (found->version.major != dlpack::kMajor || !found->from_python)
            throw std::invalid_argument("Signature: torch offers another version of DLPack's exchange");
        dlpack::exchange = found;
    }

    // None where the call cannot be remembered: an argument is of a class that is not known here, its memory cannot be
    // read as it lies, or `records` and it requires a gradient.
    py::object operator()(bool records, const py::args& arguments) const {
        std::string to;
        to.reserve(512);
        for (const py::handle argument : arguments)
            if (!append(to, argument.ptr(), records)) return py::none();
        return py::bytes(to);
    }

  private:
    template <typename T>
    static void put(std::string& to, const T& value) {
        to.append(reinterpret_cast<const char*>(&value), sizeof(T));
    }

    // A letter for the kind comes first, so that True, 1 and 1.0 differ.
    bool append(std::string& to, PyObject* argument, bool records) const {
        const PyTypeObject* const type = Py_TYPE(argument);
        if (argument == Py_None) return to.push_back('n'), true;
        if (type == &PyBool_Type) return to.push_back(argument == Py_True ? 't' : 'f'), true;
        if (is(type, tensor_) || is(type, parameter_)) return append_tensor(to, argument, records);
        if (type == &PyLong_Type) {
            int overflow = 0;
            const long long value = PyLong_AsLongLongAndOverflow(argument, &overflow);
            to.push_back('i');
            put(to, value);
            return overflow == 0;
        }
        if (type == &PyFloat_Type) {
            to.push_back('d');
            put(to, PyFloat_AS_DOUBLE(argument));
            return true;
        }
        if (type == &PyUnicode_Type) {
            Py_ssize_t size = 0;
            const char* const text = PyUnicode_AsUTF8AndSize(argument, &size);
            if (!text) return PyErr_Clear(), false;
            to.push_back('s');
            put(to, size);
            to.append(text, static_cast<std::size_t>(size));
            return true;
        }
        if (type == &PyTuple_Type || type == &PyList_Type) {
            const bool is_tuple = type == &PyTuple_Type;
            const Py_ssize_t size = is_tuple ? PyTuple_GET_SIZE(argument) : PyList_GET_SIZE(argument);
            to.push_back(is_tuple ? 'u' : 'l');
            put(to, size);
            for (Py_ssize_t i = 0; i < size; ++i) {
                PyObject* const item = is_tuple ? PyTuple_GET_ITEM(argument, i) : PyList_GET_ITEM(argument, i);
                if (!append(to, item, records)) return false;
            }
            return true;
        }
        return false;
    }

    bool append_tensor(std::string& to, PyObject* tensor, bool records) const {
        dlpack::Tensor t;
        if (records && is_true(PyObject_GetAttr(tensor, requires_grad_.ptr()))) return false;
        if (dlpack::exchange->from_python(tensor, &t) != 0) return PyErr_Clear(), false;
        std::int64_t count = 1;
        for (int i = 0; i < t.dimensions; ++i) count *= t.sizes[i];
        const auto address = reinterpret_cast<std::uintptr_t>(t.data) + t.byte_offset;
        // Kernels cannot read what was freed, or is negated lazily.
        if (!t.data && count) return false;
        if (t.dtype.code != dlpack::kInteger && is_true(PyObject_CallMethodObjArgs(tensor, is_neg_.ptr(), nullptr)))
            return false;
        to.push_back('T');
        put(to, t.device);
        put(to, t.dtype);
        put(to, t.dimensions);
        const std::size_t bytes = sizeof(std::int64_t) * static_cast<std::size_t>(t.dimensions);
        to.append(reinterpret_cast<const char*>(t.sizes), bytes);
        to.append(reinterpret_cast<const char*>(t.strides), bytes);
        to.push_back(static_cast<char>(address % kAlignment));
        return true;
    }

    static bool is(const PyTypeObject* type, const py::type& wanted) {
        return reinterpret_cast<const PyObject*>(type) == wanted.ptr();
    }

    // What torch answers; true where it fails.
    static bool is_true(PyObject* answer) {
        if (!answer) return PyErr_Clear(), true;
        Py_DECREF(answer);
        return answer != Py_False;
    }

    static constexpr std::uintptr_t kAlignment = 64;  // the greatest that a kernel asks for, in bytes

    py::type tensor_, parameter_;
    py::str requires_grad_{"requires_grad"}, is_neg_{"is_neg"};
};

inline void bind_signature(py::module_& m) {
    py::class_<Signature>(m, "Signature", py::module_local())
        .def(py::init<py::type, py::type, const py::capsule&>(), py::arg("tensor"), py::arg("parameter"),
             py::arg("exchange"))
        .def("__call__", &Signature::operator(), py::arg("records"));
}

}  // namespace vsad

"""Weights of other projects. A file is read into arrays by its container (`containers`), the arrays' names say whose
they are (`origins`), and are turned into our network's (`assemble`); an ONNX file is read by its graph (`onnx`).
"""

"""A run on the disk or in object storage: everything that a training writes, and nothing outside it.

runs/<recipe>/<n>/
    config.yaml         the resolved settings; `train --config` on it repeats the run
    environment.json    the run's own name, versions, machine, command
    log.jsonl           a line a step
    results.csv         a line an epoch
    checkpoints/        best.safetensors, last.safetensors, and the newest states, step-00000088.safetensors
    plots/curves.png    loss, accuracy, learning rate, images a second
    plots/inputs.png    what the network saw first, augmented and mixed
    tensorboard/        with `training.tracker tensorboard`
    aside/              what was damaged or did not belong there when the run went on
    lock                while a process writes the run
"""

"""Train the U-Net: split by patient, train, validate, save a checkpoint each epoch.

python train_model.py --data lgg-mri-segmentation/kaggle_3m --run runs/first
python train_model.py --width 16 --epochs 20          # without any data: on synthetic patients
python train_model.py --data my_patients --weights weights/lgg_unet.safetensors --run runs/own    # go on from weights
"""

import shlex
import sys

from training.recipe import make_parser, make_settings
from utils import UserError, run_script


def main(argv: list[str] | None = None) -> None:
    args = make_parser(__doc__).parse_args(argv)
    from dataset.folder import find_folder
    from dataset.slices import load_slices
    from storage.origin import StartingWeights
    from storage.run_folder import RunFolder
    from training import hardware as hw
    from training.run import describe_run, print_run, resume_settings, split_patients, train

    run = RunFolder(args.run)
    before = run.read_config() if args.resume and run.exists() else {}  # of the run that goes on
    if not before:
        run.refuse_used(args.overwrite)
    folder = find_folder(args.data, before.get("data"))
    weights = StartingWeights(args.weights) if args.weights else None
    if before:
        tables, settings = resume_settings(args, run, before, folder, weights)
    else:
        tables, settings = split_patients(args, folder), make_settings(args, weights.settings if weights else {})
        if weights:
            weights.refuse_other_network(settings)

    hardware = hw.choose_hardware(args.device, settings["precision"])
    settings["precision"] = "bf16" if hardware.bf16 else "fp32"
    hw.join_processes(hardware.device)
    hw.keep_freed_memory()
    hw.repeat_exactly(settings["mode"] == "exact", hardware.device, settings["crop"])
    slices = load_slices(folder, tables)
    if not slices["train"].masks.any():
        raise UserError(f"{folder}: all masks of the training patients are empty: nothing can be learned from them.")
    command = shlex.join(["python", "train_model.py", *map(str, sys.argv[1:] if argv is None else argv)])
    config = describe_run(settings, folder, slices, hardware, command, before, weights)
    print_run(config, slices)
    train(run, config, slices, hardware, args.keep, bool(before), weights)
    hw.leave_processes()


if __name__ == "__main__":
    run_script(main)

import pytest
import pytorch_lightning as pl
from train_problem import Halves, make_task

from dmn.train import ProjectNonnegative


@pytest.fixture
def task():
    return make_task()


@pytest.fixture
def data():
    return Halves()


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks, **options):
        options = {
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            **options,
        }
        return pl.Trainer(callbacks=[ProjectNonnegative(), *callbacks], **options)

    return make

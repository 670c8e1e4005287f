from .config import Config as Config
from .config import load_config as load_config
from .errors import MnistMlpError as MnistMlpError
from .export.handout import write_handout as write_handout
from .export.network import export_network as export_network
from .lesson.claims import check_lesson as check_lesson
from .lesson.trace import trace_image as trace_image
from .pictures.predict import predict_file as predict_file
from .runs.checkpoint import load_checkpoint as load_checkpoint
from .runs.listing import list_runs as list_runs
from .steps.data import Dataset as Dataset
from .steps.data import load_dataset as load_dataset
from .steps.evaluate import evaluate_model as evaluate_model
from .steps.loss import cross_entropy as cross_entropy
from .steps.loss import softmax as softmax
from .steps.model import build_mlp as build_mlp
from .steps.model import count_parameters as count_parameters
from .steps.train import fit as fit
from .views.notebook import train_model as train_model
from .views.plots import draw_pictures as draw_pictures
from .views.report import compare_runs as compare_runs
from .views.report import draw_report as draw_report

__version__: str
__all__: list[str]

"""Office-Home (Venkateswara et al. 2017)."""

from diffadapt.data.benchmark import Benchmark

CLASSES = tuple(
    (
        "Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards "
        "Computer Couch Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder "
        "Fork Glasses Hammer Helmet Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug "
        "Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio Refrigerator Ruler "
        "Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone ToothBrush Toys "
        "Trash_Can Webcam"
    ).split()
)
BENCHMARK = Benchmark(
    "officehome",
    "Office-Home",
    ("art", "clipart", "product", "real_world"),
    {"art": 2427, "clipart": 4365, "product": 4439, "real_world": 4357},
    65,
    CLASSES,
    spellings={
        "art": ("Art", "art"),
        "clipart": ("Clipart", "clipart"),
        "product": ("Product", "product"),
        "real_world": ("Real World", "Real_World", "RealWorld", "real_world", "Real"),
    },
    descriptions={
        "art": "sketches, paintings and artistic depictions of everyday objects",
        "clipart": "clip art of everyday objects",
        "product": "product photos of everyday objects without background",
        "real_world": "photos of everyday objects",
    },
)

"""Tables of boxes that the user has drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ravl_med.cohort.annotation_file import AnnotatedBox
from ravl_med.errors import ConfigError, DataError
from ravl_med.regions.annotations import AnnotationTable, boxes_within

FILMS = [Path(f"/cohort/{name}") for name in ("a/one.dcm", "b/one.dcm", "b/two.png")]


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def coco(**more: object) -> dict[str, object]:
    return {
        "images": [{"id": 7, "file_name": "b/two.png", "height": 100, "width": 80}],
        "categories": [{"id": 1, "name": "pulse generator"}],
        "annotations": [{"id": 0, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40]}],
        **more,
    }


def test_csv_by_hand(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "boxes.csv",
        "image,name,x0,y0,x1,y1,who\n"
        "a/one.dcm,pulse generator,1,2,3.5,4,me\n"
        "two.png,marker,0,0,5,5,me\n"
        "two.png,text,6,0,9,5,me\n"
        "elsewhere.dcm,text,6,0,9,5,me\n",
    )
    table = AnnotationTable.read(path, FILMS)
    assert table.of_film == {
        0: (AnnotatedBox("pulse generator", (1, 2, 3.5, 4)),),
        2: (AnnotatedBox("marker", (0, 0, 5, 5)), AnnotatedBox("text", (6, 0, 9, 5))),
    }
    assert table.unmatched == 1


def test_a_name_that_two_films_have_is_none_of_them(tmp_path: Path) -> None:
    rows = "one.dcm,tube,0,0,1,1\nc/two.png,tube,0,0,1,1\ntwo,tube,0,0,2,2\n"
    path = write(tmp_path, "boxes.csv", f"image,name,x0,y0,x1,y1\n{rows}")
    table = AnnotationTable.read(path, FILMS)
    assert table.of_film == {2: (AnnotatedBox("tube", (0, 0, 2, 2)),)}
    assert table.unmatched == 2  # "one.dcm" is two films; "c/two.png" is another folder's


def test_coco_boxes_have_corner_and_sides(tmp_path: Path) -> None:
    table = AnnotationTable.read(write(tmp_path, "coco.json", coco()), FILMS)
    assert table.of_film == {2: (AnnotatedBox("pulse generator", (10, 20, 40, 60), (100, 80)),)}


def test_coco_polygons_are_boxed_and_labels_of_whole_images_are_no_region(tmp_path: Path) -> None:
    given = [
        {"image_id": 7, "category_id": 1, "bbox": None},
        {
            "image_id": 7,
            "category_id": 1,
            "segmentation": [[5, 6, 9, 6, 9, 20], [3, 8, 4, 8, 4, 9]],
        },
    ]
    table = AnnotationTable.read(write(tmp_path, "coco.json", coco(annotations=given)), FILMS)
    assert [box.box for box in table.of_film[2]] == [(3, 6, 9, 20)]


def test_scene_graphs_have_original_coordinates(tmp_path: Path) -> None:
    graph = {
        "image_id": "two",
        "objects": [
            {"bbox_name": "left lung", "x1": 1, "y1": 1, "x2": 2, "y2": 2, "original_x1": 10,
             "original_y1": 20, "original_x2": 30, "original_y2": 40}
        ],
    }  # fmt: skip
    write(tmp_path, "two_SceneGraph.json", graph)
    table = AnnotationTable.read(tmp_path, FILMS)
    assert table.of_film == {2: (AnnotatedBox("left lung", (10, 20, 30, 40)),)}


def test_boxes_are_cut_off_and_faults_are_named() -> None:
    boxes = [
        AnnotatedBox("whole", (0, 0, 10, 10)),
        AnnotatedBox("mostly", (70, 90, 84, 102)),
        AnnotatedBox("hardly", (76, 0, 90, 10)),
        AnnotatedBox("beyond", (100, 0, 110, 10)),
        AnnotatedBox("flat", (5, 5, 5, 9)),
        AnnotatedBox("turned", (9, 9, 5, 5)),
        AnnotatedBox("of another", (0, 0, 10, 10), (50, 50)),
        AnnotatedBox("same size", (1, 1, 10, 10), (100, 80)),
    ]
    boxes.append(AnnotatedBox("wire\0lead", (1, 1, 9, 9)))  # a table may hold what no JSON may
    found = boxes_within(boxes, 100, 80)
    assert [kind.name for kind in found.kinds] == ["whole", "mostly", "same size", "wire lead"]
    assert found.boxes[1].tolist() == [70, 90, 80, 100]
    assert found.problems == (
        "box_outside", "box_outside", "box_empty", "box_empty", "size_differs",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("boxes.csv", "image,name,x0,y0,x1\n", r"column 'y1' is missing; expected image, name, x0"),
        ("boxes.csv", "image,name,x0,y0,x1,y1\na,,0,0,1,1\n", r"row 2: name is blank"),
        ("boxes.csv", "image,name,x0,y0,x1,y1\na,b,0,zero,1,1\n", r"row 2: y0 is 'zero'; expected"),
        ("boxes.csv", "image,name,x0,y0,x1,y1\na,b,0,nan,1,1\n", r"row 2: y0 is 'nan'; expected"),
        ("boxes.csv", 'image,name,x0,y0,x1,y1\na,"b,0,0,1,1\n', r"row 2: double quotes .* never"),
        ("boxes.csv", "image,name,x0,y0,x1,y1\n\na,b,0\n", r"row 3: y0 is ''; expected"),
        ("boxes.csv", "", r"column 'image' is missing"),
        ("boxes.csv", "image,name,x0,y0,x1,y1\nx,b,0,0,1,1\n", r"none of its 1 images is in the"),
        ("boxes.json", "[" * 100_000, r"not a JSON file \(ValueError\)"),
        ("a.json", coco(categories=[{"id": 1, "name": "a\ud800"}]), r"not a JSON file"),
        ("a.json", coco(categories=[{"id": 1, "name": "a\0"}]), r"not a JSON file"),
        ("a.json", "{", r"not a JSON file"),
        ("a.json", "[]", r"neither COCO|not as the layout"),
        (
            "a.json",
            {"images": []},
            r"neither COCO \('images' and 'annotations'\) nor a scene graph",
        ),
        ("a.json", coco(categories=[]), r"annotation 0: category_id is none of the categories"),
        ("a.json", coco(images=[]), r"annotation 0: image_id is none of the images"),
        (
            "a.json",
            coco(annotations=[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3]}]),
            r"a box has 3 numbers; expected four",
        ),
        (
            "a.json",
            coco(annotations=[{"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": [1]}]),
            r"an entry is not as the layout has it \(TypeError\)",
        ),
    ],
)
def test_tables_that_are_none(tmp_path: Path, name: str, content: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        AnnotationTable.read(write(tmp_path, name, content), FILMS)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_bytes(b"image,name,x0,y0,x1,y1\n\xff\xfe,b,0,0,1,1\n")
    with pytest.raises(DataError, match=r"not a UTF-8 CSV table \(UnicodeDecodeError\)"):
        AnnotationTable.read(path, FILMS)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"regions.annotations: 'boxes.csv' does not exist"):
        AnnotationTable.read(tmp_path / "boxes.csv", FILMS)
    with pytest.raises(DataError, match=r"the folder holds no JSON file"):
        AnnotationTable.read(tmp_path, FILMS)

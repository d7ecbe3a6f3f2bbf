"""Codes of SNOMED CT for what medical segmentations show.

All are in the dictionary of the DICOM standard's context groups that pydicom carries, but for those of single ribs and
muscles, the myocardium, the auricular appendage, the first sacral vertebra and the portal and splenic vein together,
which are as TotalSegmentator's published mapping has them.
"""

__all__ = ["ABNORMALITIES", "ORDINALS", "RIBS", "STRUCTURES", "VERTEBRAE"]

# A line each: code, meaning, and after "=" other names. A star marks what the body has on both sides, which takes
# "left" and "right" as modifiers; a plus what has an anterior and a posterior part.
STRUCTURES = """
78961009 Spleen
64033007* Kidney
28231008 Gallbladder = gall bladder
10200004 Liver
69695003 Stomach
15776009 Pancreas
38848004 Duodenum
30315005 Small intestine = small bowel
21306003 Jejunum
34516001 Ileum
14742008 Large intestine = large bowel
71854001 Colon
32713005 Cecum = caecum
66754008 Appendix
9040008 Ascending colon
485005 Transverse colon
32622004 Descending colon
60184004 Sigmoid colon
34402009 Rectum
32849002 Esophagus = gullet
23451007* Adrenal gland = adrenal; suprarenal gland
89837001 Bladder = urinary bladder
87953007* Ureter
25990002* Renal pelvis
13648007 Urethra
41216001 Prostate = prostate gland
64739004* Seminal vesicle
40689003* Testis = testicle
35039007 Uterus
71252005 Cervix
15497006* Ovary
76784001 Vagina
78067005 Placenta
15825003 Aorta = arota
54247002 Ascending aorta
57034009 Aortic arch
281130003 Descending aorta
113262008 Thoracic aorta
7832008 Abdominal aorta
64131007 Inferior vena cava = ivc; postcava; vena cava inferior
48345005 Superior vena cava = svc; vena cava superior
32764006 Portal vein
35819009 Splenic vein
110765007 Portal vein and splenic vein = portal splenic vein
8993003 Hepatic vein
57850000 Celiac artery = coeliac artery; celiac trunk; coeliac trunk
42258001 Superior mesenteric artery
33795007 Inferior mesenteric artery
90771006 Superior mesenteric vein
2841007* Renal artery
56400007* Renal vein
73634005* Common iliac artery = iliac artery
46027005* Common iliac vein = iliac vein; iliac vena
36765005* Subclavian artery
32062004* Common carotid artery
12691009 Brachiocephalic trunk = brachiocephalic artery
8887007* Brachiocephalic vein
41801008* Coronary artery
81040000 Pulmonary artery
122972007 Pulmonary vein
59820001 Blood vessel = vessel
80891009 Heart
74281007 Myocardium = heart myocardium; myo
82471001 Left atrium = heart left atrium; la
73829009 Right atrium = heart right atrium; ra
87878005 Left ventricle = heart left ventricle; left ventricle cavity; lv
53085002 Right ventricle = heart right ventricle; right ventricle cavity; rv
68786006* Auricular appendage = atrial appendage; heart atrial appendage
76848001 Pericardium
39607008* Lung
45653009* Upper lobe of lung
72481006 Middle lobe of right lung = middle lobe lung
90572001* Lower lobe of lung
44567001 Trachea
955009* Bronchus
3120008* Pleura
72410000 Mediastinum
5798000 Diaphragm
69748006 Thyroid = thyroid gland
4596009 Larynx
12738006 Brain
119238007 Brain stem = brainstem
113305005 Cerebellum
5366008*+ Hippocampus
4958002* Amygdala
42695009* Thalamus
11000004* Caudate nucleus = caudate
89278009* Putamen
14738005* Globus pallidus = pallidum
427667007* Nucleus accumbens = accumbens
66720007* Lateral ventricle
49841001 Third ventricle
35918002 Fourth ventricle
389080008 White matter
389081007 Gray matter
65216001 Cerebrospinal fluid = csf
56329008 Pituitary = pituitary gland; hypophysis
244453006 Optic chiasm = chiasm
18234004* Optic nerve
81745001* Eye
79652003* Eyeball
78076003* Lens = eye lens
45289007* Parotid gland = parotid
54019009* Submandibular gland
21974007 Tongue
2748008 Spinal cord
61853006 Spinal canal
51282000 Vertebra
54735007 Sacrum
65985001 S1 vertebra = s1; vertebra s1
113197003* Rib
50016007* Costal cartilage
56873002 Sternum
51299004* Clavicle = clavicula
79601000* Scapula
85050009* Humerus
23416004* Ulna
62413002* Radius
29836001* Hip
71341001* Femur
2812003* Head of femur = femoral head
64234005* Patella
12611008* Tibia
87342007* Fibula
89546000 Skull
91609006 Mandible
70925003* Maxilla
89545001 Face
76752008* Breast
181674001* Gluteus maximus muscle = gluteus maximus
78333006* Gluteus medius muscle = gluteus medius
75297007* Gluteus minimus muscle = gluteus minimus
68455001* Iliopsoas muscle = iliopsoas
44947003* Erector spinae muscle = erector spinae
244849004* Deep muscle of back = autochthon
127954009 Skeletal muscle = muscle
71966008 Subcutaneous tissue = subcutaneous fat
59441001 Lymph node
3138006 Bone
39937001 Skin
"""
VERTEBRAE = {
    "C": "14806007 39976000 113205007 5329002 36978003 36054005 87391001",
    "T": "64864005 53733008 1626008 73071006 56401006 45296009 62487009 11068009 82687006 7610001 12989004 23215003",
    "L": "66794005 14293000 36470004 11994002 49668003",
}
RIBS = "48535007 78247007 25888004 25523003 15339008 59558009 24915002 5953002 22565002 77644006 58830002 43993008"
ORDINALS = "First Second Third Fourth Fifth Sixth Seventh Eighth Ninth Tenth Eleventh Twelfth"

# In these, any one of the words makes a name one of them. The first line counts: a tumour's oedema is oedema.
ABNORMALITIES = """
79654002 Edema
6574001 Necrosis = necrotic
367643001 Cyst
50960005 Hemorrhage = bleeding
41699000 Effusion
14799000 Neoplasm, Secondary = metastasis; metastatic
108369006 Neoplasm = tumor; cancer; carcinoma
27925004 Nodule
4147007 Mass
52988006 Lesion
"""

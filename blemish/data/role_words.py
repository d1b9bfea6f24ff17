"""Words that tell the role of an image, as people name folders and labels. `roles` compares them folded.

Languages: English, German, French, Spanish, Italian, Portuguese, Dutch, Polish, Czech, Turkish, Russian, Chinese,
Japanese and Korean; the usual words of Swedish, Danish, Norwegian, Finnish, Hungarian, Romanian, Ukrainian, Greek,
Vietnamese, Indonesian, Thai, Arabic, Hebrew and Hindi.
"""

# Any word of a name tells: bad_parts, 2024-ng, goodImages.
GOOD = """
    good goods ok oks okay normal normals pass passed passes accept accepted flawless defectless nondefective
    nondefect nodefect nodefects defectfree conforming conform compliant healthy intact golden gut gute guter
    gutteil gutteile iotteile fehlerfrei fehlerlos einwandfrei inordnung bon bons bonne bonnes conforme
    conformes sain saine bueno buenos buena buenas correcto correctos aceptado aceptados buono buoni buona
    buone conformi accettato bom bons boa boas aprovado aprovados goed goede goedgekeurd dobry dobre dobra
    poprawny poprawne dobrze spravny v-poradku iyi saglam hatasiz kusursuz хорошие хороший хорошо годные годный
    норма исправные 良品 良 合格 合格品 正常 正常品 好 好品 完好 无瑕疵 無瑕疵 양품 정상 정상품 합격 합격품
    perfect correct intakt 良い 没问题 沒問題 無問題 양호 양호품
    godkand godkanda felfri felfria godkendt godkendte godkjent godkjente fejlfri feilfri hyva hyvat hyvaksytty
    hyvaksytyt ehja ehjat hibatlan jodarab добрі добрий придатні придатний καλο καλα
    tốt đạt bagus baik lulus ดี ของดี งานดี جيد سليم תקין תקינים अच्छा
"""
DEFECTIVE = """
    bad ng ngs nok notok nogood ko fail failed failing failure failures fails reject rejected rejects rejection
    rejections defect defects defective defectives def anomaly anomalies anomalous anomal abnormal abnormals
    abnormality fault faults faulty flaw flaws flawed damage damages damaged nonconforming nonconform
    noncompliant nonconformity scrap scrapped blemished blemishes invalid broken unhealthy error errors
    schlecht schlechte schlechter schlechtteil schlechtteile fehler fehlerhaft fehlerhafte fehlerteile defekt
    defekte ausschuss beschadigt schaden mangel mangelhaft anomalie anomalien reklamation reklamationen
    abweichung mauvais mauvaise mauvaises defaut defauts defectueux defectueuse defectueuses rebut rebuts
    anomalies rejete rejetes malo malos mala malas defecto defectos defectuoso defectuosos defectuosa rechazo
    rechazado rechazados anomalia anomalias cattivo cattivi difetto difetti difettoso difettosi difettosa
    scarto scarti anomalo anomali guasto mau maus ruim ruins defeito defeitos defeituoso defeituosos refugo
    rejeitado rejeitados slecht slechte fout fouten afgekeurd gebrek zly zle wada wady wadliwy wadliwe
    uszkodzony uszkodzone odrzut odrzuty brak vada vady vadny vadne zmetek zmetky hatali hata hatalar kusurlu
    kusur kusurlar hurda kotu bozuk anormal брак дефект дефекты дефектные дефектный плохие плохой бракованные
    不良 不良品 不良件 不合格 不合格品 次品 废品 廢品 缺陷 缺陷品 瑕疵 异常 異常 異常品 坏 坏品 坏件 损坏 欠陥
    欠陥品 キズ 불량 불량품 결함 결함품 이상 비정상 불합격 불합격품 wrong incorrect imperfect dirty worn rotten
    diseased infected cassé abîmé roto rotos dañado dañados rotto rotti danneggiato danneggiati quebrado
    quebrados danificado danificados kaputt nonfunctional poskozeny poskozena poskozene забраковано
    забракованные отбраковка 부적합 부적합품 손상 破損 报废 报废品 悪い 不可 不具合 有问题 問題品 问题 問題
    nonconformance nonconformances nonconformities nonconf fehlteil fehlteile wad wadami vad vadami
    underkand underkanda kasserad kasserade felaktig felaktiga dalig daliga skadad skadade darlig darlige kasseret
    fejl feil skadet vrak odelagt viallinen vialliset virhe virheet hylatty hylatyt huono huonot rikki selejt
    selejtes hiba hibas hibak neconform neconforme defecte respins respinse погані поганий браковані бракований
    дефектні дефектний пошкоджені ελαττωματικο ελαττωματικα lỗi phếphẩm cacat rusak gagal เสีย ของเสีย งานเสีย
    معيب تالف פגום פגומים खराब
"""
# The whole name has to consist of such words: hole_plate and print_head are parts.
DEFECT_KINDS = """
    scratch scratches scratched crack cracks cracked dent dents dented hole holes stain stains stained spot
    spots burr burrs chip chips chipped pit pits pitting bent bend scuff scuffs contamination contaminated
    corrosion rust blowhole blowholes missing misprint deformation deformed bubble bubbles wrinkle wrinkles tear
    torn fray frayed breakage inclusion inclusions porosity pore pores leak leakage delamination discoloration
    foreign verkratzt zerkratzt gerissen gebrochen verbogen verschmutzt kratzer riss risse delle dellen loch
    locher fleck flecken grat lunker verschmutzung bruch rost
    kratzen rayure rayures fissure fissures tache taches bosse trou eraflure casse cassure rayon aranazo
    aranazos rasguno grieta grietas mancha manchas golpe golpes rotura graffio graffi crepa crepe macchia
    macchie ammaccatura risco riscos arranhao arranhoes trinca trincas rachadura kras krassen barst deuk vlek
    rysa rysy pekniecie plama cizik cizikler catlak leke 划痕 劃痕 裂纹 裂紋 污点 凹坑 傷 汚れ 割れ 打痕 ひび
    스크래치 크랙 찍힘 얼룩 void voids warp warped warping blister blisters pinhole pinholes gouge gouges nick nicks
    ding dings misaligned misalignment burnt burned burn burns discolored discoloured smear smears smudge smudges
    dirt dust scrape scrapes scraped abrasion abrasions fracture fractures fractured peeling peeled flaking spall
    spalling crazing erosion repa repor sprucket naarmu karc karcolas repedes zgarietura fisura подряпина тріщина
"""
KIND_MODIFIERS = (
    "big small large little deep surface edge side top bottom front back inside outside fine rough major minor"
)
MASK = """
    mask masks masked masque masques maske masken mascara mascaras maschera maschere maska maski masky maskeler
    groundtruth groundtruths groundtruthmask annot annotations annotated annotation annotationen anotaciones
    annotazioni segmask segmasks segmentationmask segmentationclass segmentationobject labelmap labelmaps
    pixellabels маска маски 掩码 掩膜 掩模 标注 標注 遮罩 マスク アノテーション 마스크 라벨링
"""
# The whole name, or beside words of FILLERS: label_printer is a part.
MASK_ALONE = """
    gt gts label labels labelled labeled seg segs segmentation segmentations truth contour contours etiquetas
    etiquettes etichette beschriftung 标签 標籤 ラベル 라벨
"""
# Kinds of name for which `derived` images are left out.
DERIVED = """
    heatmap heatmaps overlay overlays thumbnail thumbnails thumb thumbs preview previews anomalymap anomalymaps
    saliency prediction predictions predicted preds inference vis viz vorhersage vorhersagen prediccion predicciones
    visualization visualizations visualisation visualisations vorschau miniatura miniaturas 缩略图
    热力图
"""
UNCLEAR = """
    positive positives negative negatives neg positiv negativ positif negatif positivo negativo positivos
    negativos unknown unsure unclear unlabeled unlabelled unlabel unsorted unclassified undecided suspect
    suspects suspicious doubtful borderline questionable rework outlier outliers anom trash discard discarded
    exclude excluded ignore ignored deleted removed quarantine quarantined waste review aussortiert aussortierte
    papierkorb gesperrt ausreisser corbeille papelera cestino lixo корзина 回收站 垃圾 隔离 ごみ箱 휴지통 unsortiert
    unbekannt unklar grenzfall
    grenzfalle verdacht inconnu desconocido sconosciuto 未知 未分类 待定 可疑 不明 보류
    良否 返工 让步接收 讓步接收 特采
"""
TRAIN = """
    train training trains trainset trainingset entrainement entrenamiento addestramento treino treinamento 训练
    訓練 학습
"""
TEST = """
    test tests testing testset prueba pruebas essai prova teste testy eval evaluation 测试 測試 テスト 테스트
"""
VALIDATION = "val validation validierung validacion validazione validacao 验证 検証 검증"
FILLERS = """
    image images img imgs data dataset datasets bild bilder imagen imagenes foto fotos photo photos pixel file
    files part parts png teil teile teilen muster stuck sample samples frame frames shot shots picture pictures
    pic pics set folder dir class cls klasse product products item items unit units aufnahme
    aufnahmen only all raw original originals crop crops cropped resized jpg jpeg bmp tif tiff backup backups
    archive tmp temp new old copy copies result results output outputs ergebnis ergebnisse resultat resultats
    resultado resultados
"""
# Behind a word for defects: the topic of a project, no defective parts.
TOPICS = """
    detection detector detektion inspection inspektion recognition classification segmentation erkennung
    challenge benchmark dataset datasets database db prufung kontrolle 检测 檢測 検査 검사
"""
# A whole name, or beside words of FILLERS: an answer to a question that is not stated, and what is not decided.
UNCLEAR_ALONE = """
    true false yes no ja nein oui non nao nie да нет так ні 是 否 对 错 はい いいえ 예 아니오 nc ncr rma returns
    returned complaints hold onhold pending mixed maybe tbd todo
"""
NOT_BEFORE = """
    not no non un nicht kein keine keinen ohne sans pas sin senza sem nao nie bez without zero geen niet 不 非
    无 無 未 没 沒 비 ej inte ikke ikkje nem fara khong tidak tanpa ไม่ לא غير
"""
# Before another name in one word: unacceptable, irregular, nevyhovujici, 不适用.
NOT_PREFIXES = """
    un in im ir il non not no dis mis ne nie nicht kein sin sem sans senza bez ikke inte ej o u 不 非 无 無 未 비 불
    미 부
"""
NOT_AFTER = "free frei less libre none degil なし 無し 无 없음"
# Anywhere in a name that says good otherwise: not_so_good, almost_ok, good_not_used.
HEDGES = """
    not nicht pas nie niet almost nearly hardly barely mostly maybe perhaps probably possibly partly supposedly quasi
    pseudo formerly beinahe vielleicht presque casi quasi quase bijna prawie
"""
# Folders of such a name and a number or letter are classes, and not which is good: class_0, grade_B.
CLASS_NAMES = """
    class classes classe klasse klassen clase clases cls category categories kategorie grade grades rating
    rank target 类 類 类别 類別 等级 等級 クラス 등급 클래스
"""
